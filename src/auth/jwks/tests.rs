//! Which keys count, and which have, while sets come, go and are missing.

use super::*;

const A: &str = "11qYAPRyxlB3KQ0TZpmJVsYqYzKGdBgaEZnwzWkVVXo";
const B: &str = "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw";

fn keys(coordinates: &[&str]) -> Vec<VerificationKey> {
    let keys = coordinates
        .iter()
        .map(|x| serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": x}));
    let set = serde_json::json!({"keys": keys.collect::<Vec<_>>()});
    keys::from_set(
        &AuthConfig::default(),
        &serde_json::from_value(set).unwrap(),
    )
}

/// A set of these keys, and another one that was never fetched, or has none but these.
fn fetched(coordinates: &[&str], other: Option<&[&str]>) -> Fetched {
    let source = |url: &str, keys| Source {
        url: SecretUrl::new(url),
        keys,
    };
    let missing = other.is_none().then(|| "no connection".to_owned());
    let sources = vec![
        source("http://one.example/", Some(keys(coordinates))),
        source("http://two.example/", other.map(keys)),
    ];
    Fetched::new(sources, missing)
}

#[test]
fn a_key_that_has_left_its_set_is_gone_although_another_set_is_missing() {
    let [a, b] = [keys(&[A])[0].mark, keys(&[B])[0].mark];
    let mut held = fetched(&[A, B], None);
    assert!(!held.replace(fetched(&[A, B], None)));
    assert!(held.replace(fetched(&[B], None)));
    assert!(held.has_removed(a) && !held.has_removed(b));
    // That is not forgotten with the next fetch.
    assert!(!held.replace(fetched(&[B], None)));
    assert!(held.has_removed(a));
    // The same keys, but now these are all there are.
    assert!(held.replace(fetched(&[B], Some(&[B]))));
}

#[test]
fn what_is_fetched_while_the_next_keys_are_prepared_is_not_taken_away() {
    let before = fetched(&[A], Some(&[B]));
    let marks = |after: &Fetched| before.marks_before(after).collect::<Vec<_>>();
    assert_eq!(marks(&fetched(&[A], None)), [keys(&[A])[0].mark]);
    assert_eq!(marks(&fetched(&[A], Some(&[B]))).len(), 2);
}

#[test]
fn a_bounded_number_of_removed_keys_is_remembered() {
    let mark = |number: usize| Mark::of("key", &number.to_be_bytes());
    let mut held = Fetched::default();
    for number in 0..=REMOVED {
        let mut next = Fetched::default();
        next.remember_removed(&held, &BTreeSet::from([mark(number)]));
        held = next;
    }
    assert_eq!(held.removed.len(), REMOVED);
    assert!(!held.has_removed(mark(0)));
    assert!(held.has_removed(mark(1)) && held.has_removed(mark(REMOVED)));
}
