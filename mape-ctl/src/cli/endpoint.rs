//! An endpoint as it is typed.

use std::{net::Ipv4Addr, str::FromStr};

/// An IPv4 address, with or without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: Ipv4Addr,
    /// The port, or the ICMP query identifier; not zero.
    pub port: Option<u16>,
}

/// The text is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an IPv4 address, or one with a port from 1 to 65535: 192.168.1.10 or 192.168.1.10:5060")]
pub struct BadEndpoint;

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let (address, port) = match text.split_once(':') {
            None => (text, None),
            Some((address, port)) => (
                address,
                Some(port.parse().ok().filter(|port| *port != 0).ok_or(BadEndpoint)?),
            ),
        };
        let address: Ipv4Addr = address.parse().map_err(|_| BadEndpoint)?;
        // In a filter of the kernel's, zeros stand for "any".
        if address.is_unspecified() {
            Err(BadEndpoint)
        } else {
            Ok(Self { address, port })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_address_with_or_without_a_port() {
        let address = Ipv4Addr::new(192, 168, 1, 10);
        assert_eq!("192.168.1.10".parse(), Ok(Endpoint { address, port: None }));
        assert_eq!(
            "192.168.1.10:5060".parse(),
            Ok(Endpoint {
                address,
                port: Some(5060)
            })
        );
        for bad in [
            "",
            "192.168.1",
            "192.168.1.10:",
            "192.168.1.10:0",
            "192.168.1.10:65536",
            "0.0.0.0",
            "[::1]:80",
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(BadEndpoint), "{bad}");
        }
    }
}
