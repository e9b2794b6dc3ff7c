//! Ports for servers that are stopped and come back at the same address.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use socket2::{Domain, Socket, Type};

/// Below the range from which systems take the local ports of outgoing connections, so that no
/// client gets the port while its server is down.
const FIRST: u16 = 15_000;
const COUNT: u16 = 15_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port on which nobody listens, and that no other test of this process is given.
pub(crate) fn free_port() -> u16 {
    // Several runs of the tests at once begin at different places.
    let offset = u16::try_from(std::process::id() * 97 % u32::from(COUNT)).unwrap();
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (offset + step % COUNT) % COUNT;
        if try_bind(port).is_ok() {
            return port;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// Fails where somebody listens, and does not listen itself: a process that another test starts at this moment has the
/// socket, too, until it has become another program, and the port would be taken for as long.
fn try_bind(port: u16) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())
}
