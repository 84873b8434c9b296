//! HTTP/2 frames written by hand, as a client that keeps no rules would.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The calls on one connection, and what each announces and sends.
const CALLS: u32 = 50;
const ANNOUNCED: u32 = 16 << 20;
const SENT: usize = 15 << 20;
const FRAME: usize = 16_384;

/// Connects, and reads and discards what the server sends. The reader ends with the connection.
async fn connect(address: &str) -> io::Result<OwnedWriteHalf> {
    let (mut read, mut write) = TcpStream::connect(address).await?.into_split();
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while read.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    });
    write.write_all(PREFACE).await?;
    write.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    Ok(write)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Fields of a header, as literals without indexing (RFC 7541, 6.2.2), each shorter than 127 bytes.
fn fields(all: &[(&str, &str)]) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap_or_default();
    let field = |(name, value): &(&str, &str)| {
        [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
    };
    all.iter().flat_map(field).collect()
}

/// Sends requests and resets each at once.
pub(super) async fn reset_requests(address: &str) -> io::Result<()> {
    let mut write = connect(address).await?;
    let head =
        fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/jobs"), (":authority", "localhost")]);
    for stream in (1..).step_by(2) {
        let mut both = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
        both.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        write.write_all(&both).await?;
    }
    Ok(())
}

/// Calls a method without credentials, many times at once, and sends nearly all of each message.
pub(super) async fn announce_bodies(address: &str) -> io::Result<()> {
    let mut write = connect(address).await?;
    let head = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/event_store.client.streams.Streams/Read"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]);
    let streams = || (0..CALLS).map(|call| call * 2 + 1);
    for stream in streams() {
        write.write_all(&frame(HEADERS, END_HEADERS, stream, &head)).await?;
        write.write_all(&frame(DATA, 0, stream, &[&[0][..], &ANNOUNCED.to_be_bytes()].concat())).await?;
    }
    let data = vec![0; FRAME];
    for _ in 0..SENT / FRAME {
        for stream in streams() {
            write.write_all(&frame(DATA, 0, stream, &data)).await?;
        }
    }
    Ok(())
}
