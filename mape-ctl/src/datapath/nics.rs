//! Owns what LINKS says of a gateway's NICs: MAC address, MTU, own IPv4 address.

use std::net::IpAddr;

use mape_common::hop::{Link, Mac};

use crate::{
    netlink::{address::Assigned, link::Interface},
    view::text::mac,
};

/// The words of a NIC, with flags that it has already.
pub fn words(nic: &Interface, addresses: &[Assigned], flags: u64) -> [u64; 2] {
    let own = addresses.iter().find_map(|assigned| match assigned.address {
        IpAddr::V4(address) if assigned.index == nic.index => Some(address.octets()),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    });
    let [first, attached] = Link::words(nic.mac.unwrap_or(Mac([0; 6])), nic.mtu_u16());
    let flags = (flags & Link::ALIVE) | attached;
    [first, own.map_or(flags, |own| Link::with_address(flags, own))]
}

/// What the words say, for people.
pub fn describe(name: &str, words: [u64; 2]) -> String {
    let link = Link::from_words(words);
    let [a, b, c, d] = link.address();
    format!(
        "{name}: MAC address {}, MTU {}, errors from {a}.{b}.{c}.{d}",
        mac(Mac::from_bits(link.mac())),
        link.mtu()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::nic::tests::nic;

    #[test]
    fn a_nic_keeps_its_proof_when_its_address_changes() {
        let assigned = |index, last| Assigned {
            index,
            address: IpAddr::from([192, 168, 10, last]),
            len: 24,
        };
        let nic = nic(3, "lan0");
        let [first, second] = words(&nic, &[assigned(2, 1), assigned(3, 7)], 0);
        let link = Link::from_words([first, second]);
        assert_eq!((link.address(), link.flags()), ([192, 168, 10, 7], Link::ATTACHED));
        link.set_alive();
        let [_, second] = words(&nic, &[], link.flags());
        let link = Link::from_words([first, second]);
        assert_eq!(link.flags(), Link::ATTACHED | Link::ALIVE);
        assert_eq!(link.address(), [192, 0, 0, 8]);
    }
}
