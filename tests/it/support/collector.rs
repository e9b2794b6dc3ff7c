//! A collector of traces: takes OTLP over HTTP and keeps what it was sent.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span as Wire;
use prost::Message as _;

use super::{eventually, free_port};

/// How it answers.
#[derive(Debug, Clone)]
pub(crate) enum Manner {
    /// It takes what it is sent.
    Good,
    /// With this status, taking nothing.
    Status(&'static str),
    /// Not at all, keeping the connection open.
    Silent,
}

pub(crate) struct Collector {
    address: SocketAddr,
    shared: Arc<Mutex<State>>,
}

struct State {
    manner: Manner,
    requests: Vec<Received>,
    /// Connections that are kept open.
    kept: Vec<TcpStream>,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) content: ExportTraceServiceRequest,
}

/// One span, and what sent it.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    wire: Wire,
    resource: Vec<KeyValue>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        Self::start_at(free_port())
    }

    pub(crate) fn start_at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(State {
            manner: Manner::Good,
            requests: Vec::new(),
            kept: Vec::new(),
        }));
        let serving = Arc::clone(&shared);
        // Ends with the process: nothing tells a listener that nobody will connect any more.
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let state = Arc::clone(&serving);
                // A client that goes away early is no concern of the stub.
                thread::spawn(move || serve(&socket, &state));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn behave(&self, manner: Manner) {
        let mut state = self.shared.lock().unwrap();
        state.manner = manner;
        state.kept.clear();
    }

    pub(crate) fn requests(&self) -> Vec<Received> {
        self.shared.lock().unwrap().requests.clone()
    }

    /// All spans so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.requests().into_iter();
        let resources = requests.flat_map(|request| request.content.resource_spans);
        let spans = resources.flat_map(|of| {
            let resource = of.resource.unwrap_or_default().attributes;
            let wires = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
            wires.map(move |wire| Span {
                wire,
                resource: resource.clone(),
            })
        });
        spans.collect()
    }

    /// Waits for so many spans of a name; gives them.
    pub(crate) async fn named(&self, name: &str, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans {name}"), || async {
            let spans = self.spans().into_iter();
            let spans: Vec<Span> = spans.filter(|span| span.name() == name).collect();
            (spans.len() >= count).then_some(spans)
        })
        .await
    }

    pub(crate) async fn one(&self, name: &str) -> Span {
        self.named(name, 1).await.remove(0)
    }

    /// Everything that it was sent, as text, to look for what must not be in it.
    pub(crate) fn everything(&self) -> String {
        format!("{:?}", self.requests())
    }
}

impl Span {
    pub(crate) fn name(&self) -> &str {
        &self.wire.name
    }

    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }

    pub(crate) fn trace(&self) -> String {
        hex(&self.wire.trace_id)
    }

    pub(crate) fn id(&self) -> String {
        hex(&self.wire.span_id)
    }

    pub(crate) fn parent(&self) -> String {
        hex(&self.wire.parent_span_id)
    }

    /// An attribute as text; empty where there is none.
    pub(crate) fn get(&self, key: &str) -> String {
        value(&self.wire.attributes, key)
    }

    /// What is said of the process that it is from.
    pub(crate) fn resource(&self, key: &str) -> String {
        value(&self.resource, key)
    }
}

fn value(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|attribute| attribute.value.as_ref()?.value.as_ref());
    match value {
        Some(Any::StringValue(text)) => text.clone(),
        Some(Any::IntValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn serve(socket: &TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(socket.try_clone().ok()?);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length")?;
        let mut body = vec![0; length.1.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        let content = ExportTraceServiceRequest::decode(&body[..]).unwrap();
        let manner = {
            let mut state = state.lock().unwrap();
            let manner = state.manner.clone();
            match manner {
                Manner::Good => state.requests.push(Received {
                    path,
                    headers,
                    content,
                }),
                Manner::Silent => state.kept.push(socket.try_clone().ok()?),
                Manner::Status(_) => {}
            }
            manner
        };
        let status = match manner {
            Manner::Good => "200 OK",
            Manner::Status(status) => status,
            Manner::Silent => return None,
        };
        write!(
            &mut (&*socket),
            "HTTP/1.1 {status}\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n"
        )
        .ok()?;
    }
}
