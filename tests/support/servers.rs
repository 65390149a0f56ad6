//! Backends in this process, for behaviour that a well-behaved server does not have.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::net::{fresh_addr, listen, stop_listening};
use super::wait::DEADLINE;

/// The status for which an [`HttpServer`] does not answer at all.
pub const SILENCE: u16 = 0;

/// A listening socket with a thread for each connection.
#[derive(Debug)]
pub struct Server {
    /// Where it listens, or did.
    pub addr: SocketAddr,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves each connection at `addr` with `serve`, which is also told its number in the order of arrival.
    #[track_caller]
    pub fn start(addr: SocketAddr, serve: impl Fn(usize, TcpStream) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = listen(addr);
        let addr = listener.local_addr().expect("bound");
        let accepting = listener.try_clone().expect("clone");
        let serve = Arc::new(serve);
        let thread = std::thread::spawn(move || {
            for (number, stream) in accepting.incoming().map_while(Result::ok).enumerate() {
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(number, stream).ok());
            }
        });
        Self { addr, listener, thread: Some(thread) }
    }

    /// One that does what [`super::Backend`] does.
    #[track_caller]
    pub fn echo(name: &'static str) -> Self {
        Self::start(fresh_addr(), move |_, mut stream| {
            stream.write_all(format!("{name}\n").as_bytes())?;
            let mut back = stream.try_clone()?;
            io::copy(&mut stream, &mut back)?;
            Ok(())
        })
    }

    /// Stops listening. The connections that it has go on.
    pub fn close(&mut self) {
        if let Some(thread) = self.thread.take() {
            stop_listening(&self.listener);
            thread.join().expect("accepts to the end");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

/// Answers every HTTP request with the status that it was last told, and counts them.
#[derive(Debug)]
pub struct HttpServer {
    server: Server,
    status: Arc<AtomicU16>,
    requests: Arc<AtomicUsize>,
}

impl HttpServer {
    /// Starts at a port of `ip` that the kernel chooses.
    #[track_caller]
    pub fn start(ip: IpAddr, status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let requests = Arc::new(AtomicUsize::new(0));
        let (now, count) = (Arc::clone(&status), Arc::clone(&requests));
        let server = Server::start(SocketAddr::new(ip, 0), move |_, mut stream| {
            stream.set_read_timeout(Some(DEADLINE))?;
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte)?;
                head.extend(byte);
            }
            count.fetch_add(1, Ordering::SeqCst);
            let status = now.load(Ordering::SeqCst);
            if status == SILENCE {
                return stream.read_to_end(&mut head).map(drop);
            }
            write!(stream, "HTTP/1.1 {status} So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        });
        Self { server, status, requests }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr
    }

    /// From now on the answer is `status`.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}
