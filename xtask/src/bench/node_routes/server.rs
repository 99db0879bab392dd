//! A fake API server: lists of nodes in pages, and a watch that reports one change at its beginning.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};

use super::nodes;

/// Longest line of a request.
const LINE: u64 = 16 * 1024;
/// Most lines of a request.
const LINES: usize = 100;

/// The server. It ends with its process.
#[derive(Debug)]
pub(super) struct ApiServer {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    nodes: Vec<String>,
    changed: String,
    /// Whether the node that changes has done so.
    has_changed: AtomicBool,
}

/// What a client asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    path: String,
    watch: bool,
    limit: usize,
    /// The first node of the page.
    from: usize,
    /// Whether the client wants the connection closed.
    closes: bool,
}

impl ApiServer {
    /// Listens at a free port of this namespace.
    ///
    /// # Errors
    /// No port can be listened at.
    pub(super) fn start() -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen for the client")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            nodes: nodes::all(),
            changed: nodes::changed(),
            has_changed: AtomicBool::new(false),
        });
        let served = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&served);
                // A client that goes away is no error.
                thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        Ok(Self { address, state })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All nodes are as in the beginning.
    pub(super) fn reset(&self) {
        self.state.has_changed.store(false, Ordering::SeqCst);
    }
}

fn serve(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = Request::read(&mut reader)? {
        if request.path != "/api/v1/nodes" {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
        } else if request.watch {
            state.has_changed.store(true, Ordering::SeqCst);
            stream.write_all(watched(&state.changed).as_bytes())?;
            // Nothing else happens until the client goes.
            return reader.read(&mut [0]).map(drop);
        } else {
            let page = state.page(&request);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                page.len()
            );
            stream.write_all(head.as_bytes())?;
            stream.write_all(page.as_bytes())?;
        }
        if request.closes {
            return Ok(());
        }
    }
    Ok(())
}

/// The answer to a watch, with one event.
fn watched(node: &str) -> String {
    let event = format!("{{\"type\":\"MODIFIED\",\"object\":{node}}}\n");
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{event}\r\n",
        event.len()
    )
}

impl State {
    fn page(&self, request: &Request) -> String {
        let end = self.nodes.len().min(request.from + request.limit);
        let changed = self.has_changed.load(Ordering::SeqCst);
        let node = |number: usize| match number {
            nodes::CHANGED if changed => self.changed.as_str(),
            _ => self.nodes[number].as_str(),
        };
        let items: Vec<&str> = (request.from.min(end)..end).map(node).collect();
        let next = match end {
            end if end < self.nodes.len() => {
                let left = self.nodes.len() - end;
                format!(",\"continue\":\"{end}\",\"remainingItemCount\":{left}")
            }
            _ => String::new(),
        };
        format!(
            "{{\"kind\":\"NodeList\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"9000\"{next}}},\"items\":[{}]}}",
            items.join(",")
        )
    }
}

impl Request {
    /// The next request of a connection; `None` at its end.
    fn read(reader: &mut impl BufRead) -> std::io::Result<Option<Self>> {
        let mut lines = Vec::new();
        for _ in 0..LINES {
            let mut line = String::new();
            reader.by_ref().take(LINE).read_line(&mut line)?;
            match line.trim_end() {
                "" if lines.is_empty() => return Ok(None),
                "" => return Ok(Some(Self::parse(&lines))),
                line => lines.push(line.to_owned()),
            }
        }
        Ok(None)
    }

    fn parse(lines: &[String]) -> Self {
        let target = lines.first().and_then(|line| line.split(' ').nth(1));
        let target = target.unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Self {
            path: path.to_owned(),
            limit: usize::MAX / 2,
            ..Self::default()
        };
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "watch" => request.watch = value == "true" || value == "1",
                "limit" => request.limit = value.parse().unwrap_or(request.limit),
                "continue" => request.from = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        request.closes = lines
            .iter()
            .any(|line| line.eq_ignore_ascii_case("connection: close"));
        request
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn state() -> State {
        State {
            nodes: (0..nodes::CHANGED + 2).map(|it| it.to_string()).collect(),
            changed: "\"changed\"".to_owned(),
            has_changed: AtomicBool::new(false),
        }
    }

    fn request(text: &str) -> Request {
        let read = Request::read(&mut text.as_bytes()).expect("text");
        read.expect("a request")
    }

    #[test]
    fn a_list_comes_in_pages_and_has_the_changed_node_after_the_watch() {
        let state = state();
        let page = |text: &str| {
            let request = request(&format!("GET {text} HTTP/1.1\r\nHost: x\r\n\r\n"));
            let page: Value = serde_json::from_str(&state.page(&request)).expect("JSON");
            page
        };
        let first = page("/api/v1/nodes?&limit=2501");
        assert_eq!(first["items"].as_array().map(Vec::len), Some(2501));
        assert_eq!(first["items"][2500], 2500);
        assert_eq!(first["metadata"]["continue"], "2501");
        let last = page("/api/v1/nodes?limit=2501&continue=2501");
        assert_eq!(last["items"].as_array().map(Vec::len), Some(1));
        assert_eq!(last["metadata"]["continue"], Value::Null);
        state.has_changed.store(true, Ordering::SeqCst);
        assert_eq!(page("/api/v1/nodes")["items"][2500], "changed");
    }

    #[test]
    fn a_request_is_read_with_what_it_asks_for() {
        let watch = request(
            "GET /api/v1/nodes?&watch=true&resourceVersion=9000 HTTP/1.1\r\nConnection: close\r\n\r\n",
        );
        assert!(watch.watch && watch.closes);
        assert_eq!(watch.path, "/api/v1/nodes");
        let nothing = Request::read(&mut "".as_bytes()).expect("text");
        assert_eq!(nothing, None);
        let answer = watched("{}");
        assert!(answer.ends_with("{\"type\":\"MODIFIED\",\"object\":{}}\n\r\n"));
        assert!(answer.contains("\r\n\r\n20\r\n"), "{answer}");
    }
}
