//! gzip for whoever asks for it, as agents do on their HTTP listeners (gorilla's `CompressHandler`, 2.0.5, 1.11.3, 1.10.5)
//! and the Task API does not. The format, not its purpose: what is sent gets no smaller (RFC 1951, 3.2.4).

use super::{Via, request::Request};

/// The head of a gzip file without a name or a time.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Whether an answer to `request` is compressed.
pub(crate) fn is_asked(request: &Request, via: Via) -> bool {
    let accepted = request.headers.get("accept-encoding");
    via == Via::Agent && accepted.is_some_and(|encodings| encodings.contains("gzip"))
}

/// The same answer with its body compressed.
pub(crate) fn compressed(answer: &[u8]) -> Vec<u8> {
    let answer = str::from_utf8(answer).expect("answers are texts");
    let (head, body) = answer.split_once("\r\n\r\n").expect("there is a head");
    let body = if head.contains("Transfer-Encoding: chunked") {
        body.split("\r\n").nth(1).expect("there is one chunk")
    } else {
        body
    };
    let mut file = HEAD.to_vec();
    file.extend(block(body.as_bytes(), true));
    file.extend(crc32(body.as_bytes()).to_le_bytes());
    file.extend(u32::try_from(body.len()).expect("short").to_le_bytes());
    let head = head.lines().filter(|line| {
        !line.starts_with("Content-Length: ") && !line.starts_with("Transfer-Encoding: ")
    });
    let mut compressed = Vec::new();
    for line in head {
        compressed.extend(format!("{line}\r\n").bytes());
    }
    let length = file.len();
    compressed
        .extend(format!("Content-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n").bytes());
    compressed.extend(file);
    compressed
}

/// Stored blocks with these bytes.
fn block(bytes: &[u8], last: bool) -> Vec<u8> {
    let mut blocks = Vec::new();
    let mut rest = bytes;
    loop {
        let (part, more) = rest.split_at(rest.len().min(usize::from(u16::MAX)));
        let length = u16::try_from(part.len()).expect("split so");
        blocks.push(u8::from(last && more.is_empty()));
        blocks.extend(length.to_le_bytes());
        blocks.extend((!length).to_le_bytes());
        blocks.extend(part);
        if more.is_empty() {
            return blocks;
        }
        rest = more;
    }
}

/// The checksum of RFC 1952, 8.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
