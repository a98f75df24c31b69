//! Owns the page server: one request and one answer a connection, and the client says which side closes first.
//!
//! The client sends eight bytes of its own choice. The answer begins with them, names the address and port that the server
//! sees, and goes on with bytes that follow from the request, so that an answer to somebody else's is found out. Then the
//! server waits: for one more byte, which asks it to close first, or for the client to close.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
};

use anyhow::{Result, bail};

use super::IO_LIMIT;

/// Where the page server listens.
pub const PORT: u16 = 7001;
/// Bytes of a request.
pub const REQUEST: usize = 8;
/// Bytes of an answer: three segments.
pub const ANSWER: usize = 4096;
/// Where in the answer the client's address ends.
const ADDRESS_END: usize = REQUEST + 4;
/// Where in the answer the client's port ends.
const PORT_END: usize = ADDRESS_END + 2;

/// What a server that sees its client as `seen` answers.
pub fn answer(request: [u8; REQUEST], seen: SocketAddrV4) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ANSWER);
    bytes.extend(request);
    bytes.extend(seen.ip().octets());
    bytes.extend(seen.port().to_be_bytes());
    // xorshift, which stays at zero if it begins there.
    let mut state = u64::from_be_bytes(request) | 1;
    while bytes.len() < ANSWER {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_be_bytes());
    }
    bytes.truncate(ANSWER);
    bytes
}

/// The client's address and port as the answer names them, if it is the answer to this request and whole.
pub fn seen_in(answer: &[u8], request: [u8; REQUEST]) -> Option<SocketAddrV4> {
    let address: [u8; 4] = answer.get(REQUEST..ADDRESS_END)?.try_into().ok()?;
    let port: [u8; 2] = answer.get(ADDRESS_END..PORT_END)?.try_into().ok()?;
    let seen = SocketAddrV4::new(Ipv4Addr::from(address), u16::from_be_bytes(port));
    (self::answer(request, seen) == answer).then_some(seen)
}

/// Serves one connection to its end.
pub(super) fn serve(mut stream: &TcpStream, peer: SocketAddr) -> Result<()> {
    let IpAddr::V4(address) = peer.ip() else {
        bail!("{peer} is no IPv4 client");
    };
    stream.set_read_timeout(Some(IO_LIMIT))?;
    stream.set_write_timeout(Some(IO_LIMIT))?;
    let mut request = [0; REQUEST];
    stream.read_exact(&mut request)?;
    stream.write_all(&answer(request, SocketAddrV4::new(address, peer.port())))?;
    // A byte or the end of the stream: either way it is time to close.
    let _ = stream.read(&mut [0])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_answer_to_ones_own_request_is_taken() {
        let seen = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 18), 4928);
        let whole = answer([7; REQUEST], seen);
        assert_eq!(seen_in(&whole, [7; REQUEST]), Some(seen));
        assert_eq!(seen_in(&whole, [8; REQUEST]), None);
        assert_eq!(seen_in(&whole[..ANSWER - 1], [7; REQUEST]), None);
        let mut damaged = whole;
        damaged[ANSWER - 1] ^= 1;
        assert_eq!(seen_in(&damaged, [7; REQUEST]), None);
    }
}
