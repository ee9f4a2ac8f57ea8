//! Opening the port: one listener for each worker, and never a port that another program has.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;
/// A peer that has vanished without a word is noticed after this time of silence, and a few probes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Bound listeners: for each worker, one for each address.
#[derive(Debug)]
pub struct Listeners {
    /// The addresses, with the port that the system chose if it had to.
    pub addresses: Vec<SocketAddr>,
    /// By worker.
    pub workers: Vec<Vec<TcpListener>>,
}

impl Listeners {
    /// Listens on every address of `host`, with a listener of its own for each worker, so that the system spreads
    /// connections over them.
    ///
    /// # Errors
    /// When the host has no address here, or the port is taken.
    pub fn bind(host: &str, port: u16, workers: usize) -> io::Result<Self> {
        let mut listeners = Self { addresses: Vec::new(), workers: (0..workers).map(|_| Vec::new()).collect() };
        let mut unavailable = None;
        for mut address in (host, port).to_socket_addrs()? {
            if let Some(first) = listeners.addresses.first() {
                address.set_port(first.port());
            }
            if listeners.addresses.contains(&address) {
                continue;
            }
            match listeners.add(address) {
                Ok(()) => {}
                // `localhost` may name an address family that this machine does not have.
                Err(error) if is_absent(&error) => unavailable = Some(error),
                Err(error) => return Err(error),
            }
        }
        match unavailable {
            Some(error) if listeners.addresses.is_empty() => Err(error),
            _ if listeners.addresses.is_empty() => {
                Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"))
            }
            _ => Ok(listeners),
        }
    }

    /// Takes listeners that are open already, which all workers share.
    ///
    /// # Errors
    /// When one of them does not listen.
    pub fn adopt(open: Vec<TcpListener>, workers: usize) -> io::Result<Self> {
        let mut listeners = Self { addresses: Vec::new(), workers: (0..workers).map(|_| Vec::new()).collect() };
        for listener in open {
            let socket = SockRef::from(&listener);
            if !socket.is_listener()? {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
            }
            prepare(&socket)?;
            listeners.addresses.push(listener.local_addr()?);
            for worker in &mut listeners.workers {
                worker.push(listener.try_clone()?);
            }
        }
        Ok(listeners)
    }

    fn add(&mut self, address: SocketAddr) -> io::Result<()> {
        // First alone: with SO_REUSEPORT two proxies could share a port without either knowing.
        let probe = socket(address)?;
        probe.bind(&address.into())?;
        let address = local_address(&probe)?;
        drop(probe);
        for worker in &mut self.workers {
            let socket = socket(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            worker.push(socket.into());
        }
        self.addresses.push(address);
        Ok(())
    }
}

/// A socket whose options its connections inherit.
fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    prepare(&socket)?;
    Ok(socket)
}

fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4))?;
    socket.set_nonblocking(true)
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(AF_NOT_SUPPORTED)
}

/// `EAFNOSUPPORT`, for which the standard library has no name.
const AF_NOT_SUPPORTED: i32 = 97;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_workers_listen_on_the_port_that_the_system_chose() {
        let listeners = Listeners::bind("127.0.0.1", 0, 3).expect("a port");
        let [address] = listeners.addresses[..] else { panic!("one address") };
        assert_ne!(address.port(), 0);
        for listener in listeners.workers.iter().flatten() {
            assert_eq!(listener.local_addr().expect("an address"), address);
        }
    }

    #[test]
    fn two_proxies_cannot_share_a_port() {
        let first = Listeners::bind("127.0.0.1", 0, 1).expect("a port");
        let second = Listeners::bind("127.0.0.1", first.addresses[0].port(), 1);
        assert_eq!(second.expect_err("the port is taken").kind(), io::ErrorKind::AddrInUse);
    }
}
