//! A backend on a Unix socket whose queue is soon full: until it serves, whoever dials it waits.

use std::io::{self, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};

fn socket() -> Socket {
    Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket")
}

/// Listens at `path` with room for hardly anybody.
pub fn listen(path: &Path) -> UnixListener {
    let socket = socket();
    socket.bind(&SockAddr::unix(path).expect("a path")).expect("bind");
    socket.listen(1).expect("listen");
    UnixListener::from(socket)
}

/// Connections that take what places are left at `path`.
pub fn crowd(path: &Path) -> Vec<Socket> {
    let sockets = (0..4).map(|_| {
        let socket = socket();
        socket.set_nonblocking(true).expect("O_NONBLOCK");
        socket.connect(&SockAddr::unix(path).expect("a path")).ok();
        socket
    });
    sockets.collect()
}

/// Serves everybody who comes, each with its name and then an echo.
pub fn serve(listener: UnixListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                stream.write_all(b"a\n")?;
                let mut back = stream.try_clone()?;
                io::copy(&mut stream, &mut back)
            });
        }
    });
}
