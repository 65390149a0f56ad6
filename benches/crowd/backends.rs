//! Backends at every address of the loopback network, which close at once whatever they take in.

use std::net::{Shutdown, SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};

use socket2::{Domain, Socket, Type};

/// Ports from here on are tried: below those that the kernel gives to clients, who would be in the way when they come back.
const FIRST_PORT: u16 = 20_000;
/// Connections that may wait to be taken in.
const BACKLOG: i32 = 4096;

/// One port at all addresses.
pub(crate) struct Backends {
    port: u16,
    running: Option<(Socket, JoinHandle<()>)>,
}

impl Backends {
    pub(crate) fn start() -> Self {
        let (port, socket) = (FIRST_PORT..).find_map(|port| Some((port, listen(port)?))).unwrap();
        let mut backends = Self { port, running: None };
        backends.serve(socket);
        backends
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// From now on connections are refused.
    pub(crate) fn stop(&mut self) {
        if let Some((socket, thread)) = self.running.take() {
            socket.shutdown(Shutdown::Both).unwrap();
            drop(socket);
            thread.join().unwrap();
        }
    }

    pub(crate) fn again(&mut self) {
        let socket = listen(self.port).unwrap();
        self.serve(socket);
    }

    fn serve(&mut self, socket: Socket) {
        let listener = TcpListener::from(socket.try_clone().unwrap());
        let take_in = move || while listener.accept().is_ok() {};
        self.running = Some((socket, thread::Builder::new().name("backends".to_owned()).spawn(take_in).unwrap()));
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(port: u16) -> Option<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into()).ok()?;
    socket.listen(BACKLOG).ok()?;
    Some(socket)
}
