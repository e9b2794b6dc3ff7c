use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn settings(header: ForwardedHeader, trusted: &[&str]) -> ProxySettings {
    ProxySettings {
        trusted: trusted
            .iter()
            .map(|text| Trusted::parse(text).unwrap())
            .collect(),
        header,
        ipv6_prefix: 64,
    }
}

fn origin(settings: &ProxySettings, peer: &str, values: &[&str]) -> String {
    let values = values.iter().map(|value| value.as_bytes());
    let origin = settings.origin(peer.parse().unwrap(), values);
    let shared = if origin.network.is_none() {
        " shared"
    } else {
        ""
    };
    format!("{}{shared}", origin.address)
}

#[test]
fn whoever_is_not_trusted_speaks_for_nobody_else() {
    for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
        let settings = settings(header, &["10.0.0.0/8"]);
        for value in ["192.0.2.7", "for=192.0.2.7"] {
            assert_eq!(origin(&settings, "198.51.100.1", &[value]), "198.51.100.1");
        }
    }
}

#[test]
fn the_right_most_address_that_is_not_trusted_is_the_clients() {
    let settings = settings(ForwardedHeader::XForwardedFor, &["10.0.0.0/8", "fd00::1"]);
    let from = |values: &[&str]| origin(&settings, "10.0.0.1", values);
    assert_eq!(from(&["192.0.2.7"]), "192.0.2.7");
    assert_eq!(from(&["203.0.113.9, 192.0.2.7"]), "192.0.2.7");
    assert_eq!(from(&["203.0.113.9,192.0.2.7 , 10.0.0.2"]), "192.0.2.7");
    assert_eq!(from(&["203.0.113.9, 192.0.2.7", "fd00::1"]), "192.0.2.7");
    assert_eq!(from(&["192.0.2.7:4711"]), "192.0.2.7");
    assert_eq!(from(&["2001:db8::7"]), "2001:db8::7");
    assert_eq!(from(&["[2001:db8::7]:4711"]), "2001:db8::7");
    assert_eq!(from(&["::ffff:192.0.2.7"]), "192.0.2.7");
    // All of them are trusted: the first is where it began.
    assert_eq!(from(&["10.0.0.9, 10.0.0.2"]), "10.0.0.9 shared");
}

#[test]
fn what_is_no_address_ends_the_way_at_the_proxy_that_wrote_it() {
    let settings = settings(ForwardedHeader::XForwardedFor, &["10.0.0.0/8"]);
    let from = |values: &[&str]| origin(&settings, "10.0.0.1", values);
    for value in [
        "",
        ",",
        "unknown",
        "_hidden",
        "192.0.2",
        "1.2.3.4.5",
        "fe80::1%eth0",
    ] {
        assert_eq!(from(&[value]), "10.0.0.1 shared", "{value:?}");
        let further = format!("192.0.2.7, {value}, 10.0.0.2");
        assert_eq!(from(&[&further]), "10.0.0.2 shared", "{value:?}");
    }
    assert_eq!(from(&["[192.0.2.7]"]), "10.0.0.1 shared");
    assert_eq!(from(&["[fe80::1%3]:80"]), "10.0.0.1 shared");
    assert_eq!(from(&[]), "10.0.0.1 shared");
}

#[test]
fn forwarded_is_read_as_rfc_7239_has_it() {
    let settings = settings(ForwardedHeader::Forwarded, &["10.0.0.0/8"]);
    let from = |values: &[&str]| origin(&settings, "10.0.0.1", values);
    assert_eq!(from(&["for=192.0.2.7"]), "192.0.2.7");
    assert_eq!(from(&["For=\"[2001:db8::7]:4711\""]), "2001:db8::7");
    assert_eq!(
        from(&["for=192.0.2.43, for=192.0.2.7;proto=http;by=203.0.113.43"]),
        "192.0.2.7"
    );
    assert_eq!(
        from(&["proto=https;for=\"192.0.2.7:80\";host=\"a,b\""]),
        "192.0.2.7"
    );
    assert_eq!(from(&["for=192.0.2.7", "for=10.0.0.2"]), "192.0.2.7");
    for value in [
        "for=unknown",
        "for=_gazonk",
        "for=\"_gazonk:80\"",
        "for=2001:db8::7",
        "for=\"192.0.2.7",
        "for=192.0.2.7;for=192.0.2.8",
        "by=192.0.2.7",
        "192.0.2.7",
        "for=\"192.0.2\\.7\"",
    ] {
        assert_eq!(from(&[value]), "10.0.0.1 shared", "{value:?}");
    }
    // A quotation mark that a client leaves open does not swallow what the proxy adds.
    assert_eq!(from(&["for=\"1.1.1.1, for=192.0.2.7"]), "192.0.2.7");
    assert_eq!(
        from(&["for=\"1.1.1.1\\, for=\"[2001:db8::7]\""]),
        "2001:db8::7"
    );
}

#[test]
fn ipv6_clients_are_counted_by_their_network() {
    let of = |text: &str, prefix| Network::of(text.parse().unwrap(), prefix);
    assert_eq!(of("2001:db8::1", 64), of("2001:db8::ffff:1", 64));
    assert_ne!(of("2001:db8::1", 64), of("2001:db8:0:1::1", 64));
    assert_ne!(of("2001:db8::1", 128), of("2001:db8::2", 128));
    assert_eq!(of("2001:db8::1", 0), of("fe80::1", 0));
    assert_eq!(of("::ffff:192.0.2.7", 64), of("192.0.2.7", 64));
    assert_ne!(of("192.0.2.7", 64), of("192.0.2.8", 64));
}

#[test]
fn trusted_networks_are_read_or_refused_in_words() {
    for good in ["10.0.0.0/8", "127.0.0.1", "::1", "2001:db8::/32"] {
        assert!(Trusted::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "10.0.0.0/33", "proxy.example.com", "10.0.0", "*"] {
        assert!(
            Trusted::parse(bad).unwrap_err().contains("no network"),
            "{bad}"
        );
    }
}

#[test]
fn settings_can_be_changed_while_they_are_used() {
    let proxies = Proxies::new(ProxySettings::default());
    let client = |proxies: &Proxies| {
        let origin = proxies.origin("10.0.0.1".parse().unwrap(), |name| {
            assert_eq!(name, "x-forwarded-for");
            std::iter::once(&b"192.0.2.7"[..])
        });
        origin.address.to_string()
    };
    assert_eq!(client(&proxies), "10.0.0.1");
    proxies
        .clone()
        .set(settings(ForwardedHeader::XForwardedFor, &["10.0.0.1"]));
    assert_eq!(client(&proxies), "192.0.2.7");
}

/// One hop of a chain, in the order in which proxies add them.
fn hop() -> impl Strategy<Value = (IpAddr, bool)> {
    let address = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        any::<[u8; 2]>().prop_map(|[a, b]| IpAddr::from([10, 0, a, b])),
    ];
    (address, any::<bool>())
}

fn written(header: ForwardedHeader, address: IpAddr, port: bool) -> String {
    let text = match (address, port) {
        (IpAddr::V4(address), true) => format!("{address}:4711"),
        (IpAddr::V6(address), true) => format!("[{address}]:4711"),
        (address, false) => address.to_string(),
    };
    match (header, address) {
        (ForwardedHeader::XForwardedFor, _) => text,
        (ForwardedHeader::Forwarded, IpAddr::V4(_)) if !port => format!("for={text}"),
        (ForwardedHeader::Forwarded, IpAddr::V6(_)) if !port => {
            format!("for=\"[{text}]\";proto=http")
        }
        (ForwardedHeader::Forwarded, _) => format!("proto=http;for=\"{text}\""),
    }
}

proptest! {
    #[test]
    fn the_rule_holds_for_any_chain_whatever_stands_before_it(
        header in prop_oneof![Just(ForwardedHeader::XForwardedFor), Just(ForwardedHeader::Forwarded)],
        invented in "[ -~]{0,40}",
        hops in vec(hop(), 1..6),
        lines in vec(any::<bool>(), 6),
    ) {
        let settings = settings(header, &["10.0.0.0/8"]);
        let trusted = |address: &IpAddr| settings.trusts(address.to_canonical());
        // The client is the last of those who are not trusted; all behind it are.
        let client = hops.iter().rposition(|(address, _)| !trusted(address));
        prop_assume!(client.is_some());
        let mut values = vec![invented];
        for ((address, port), line) in hops.iter().zip(&lines) {
            let text = written(header, *address, *port);
            match (values.last_mut(), line) {
                (Some(last), false) => *last = format!("{last}, {text}"),
                _ => values.push(text),
            }
        }
        let found = settings.origin("10.9.9.9".parse().unwrap(), values.iter().map(String::as_bytes));
        prop_assert_eq!(found.address, hops[client.unwrap()].0.to_canonical());
        prop_assert!(found.network.is_some());
    }

    #[test]
    fn no_bytes_do_any_harm(
        header in prop_oneof![Just(ForwardedHeader::XForwardedFor), Just(ForwardedHeader::Forwarded)],
        values in vec(vec(prop_oneof![any::<u8>(), Just(b','), Just(b'"'), Just(b';'), Just(b'='), Just(b'[')], 0..80), 0..4),
        peer in any::<[u8; 4]>(),
    ) {
        let settings = settings(header, &["0.0.0.0/0"]);
        let peer = IpAddr::from(peer);
        settings.origin(peer, values.iter().map(Vec::as_slice));
        // And nothing is believed of those who are not trusted.
        let nobody = ProxySettings { trusted: Vec::new(), ..settings };
        prop_assert_eq!(nobody.origin(peer, values.iter().map(Vec::as_slice)).address, peer);
    }
}
