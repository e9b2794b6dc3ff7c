//! An HTTP server of a few lines that serves one JSON document, e.g. a key set.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

pub(crate) struct HttpStub {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    document: Mutex<Value>,
    requests: AtomicUsize,
}

impl HttpStub {
    pub(crate) fn serve(document: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            document: Mutex::new(document),
            requests: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        // Ends with the process: nothing tells a listener that nobody will connect any more.
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                serving.requests.fetch_add(1, Ordering::SeqCst);
                let document = serving.document.lock().unwrap().to_string();
                // A client that goes away early is no concern of the stub.
                let _ = answer(socket, &document);
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn replace(&self, document: Value) {
        *self.shared.document.lock().unwrap() = document;
    }

    /// How often the document was asked for.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

fn answer(mut socket: TcpStream, document: &str) -> std::io::Result<()> {
    let mut request = BufReader::new(socket.try_clone()?);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    write!(
        socket,
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{document}",
        document.len()
    )
}
