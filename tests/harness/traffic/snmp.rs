//! Owns what a node's kernel has counted of its own sockets: the pairs of lines, names and values, of /proc/net/snmp.

use anyhow::{Context, Result};

use crate::lab::Lab;

/// TCP segments that the node's own sockets have sent again.
///
/// # Errors
/// When the node does not tell.
pub fn sent_again(lab: &Lab, node: &str) -> Result<u64> {
    counted(lab, node, "Tcp", "RetransSegs")
}

/// UDP datagrams that arrived and found no room in the buffer of the socket they were for.
///
/// # Errors
/// When the node does not tell.
pub fn overflowed(lab: &Lab, node: &str) -> Result<u64> {
    counted(lab, node, "Udp", "RcvbufErrors")
}

fn counted(lab: &Lab, node: &str, protocol: &str, name: &str) -> Result<u64> {
    let text = lab.node(node)?.tool("cat /proc/net/snmp")?;
    value(&text, protocol, name).with_context(|| format!("{node} does not count {name} of {protocol}: {text}"))
}

fn value(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|known| known == name)?;
    values.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::value;

    #[test]
    fn a_count_is_found_below_its_name() {
        let text = "Ip: Forwarding DefaultTTL\nIp: 1 64\nTcp: InSegs RetransSegs InErrs\nTcp: 5 42 0\nUdp: A B\nUdp: 1 2\nUdpLite: A B\nUdpLite: 7 8\n";
        assert_eq!(value(text, "Tcp", "RetransSegs"), Some(42));
        assert_eq!(value(text, "Udp", "B"), Some(2));
        assert_eq!(value(text, "Udp", "RcvbufErrors"), None);
        assert_eq!(value("Tcp: InSegs\n", "Tcp", "InSegs"), None);
    }
}
