//! The MAP IPv6 address of the customer edge that has an IPv4 address and port (RFC 7597 §5.3, §6).

use super::{
    psid::PortSet,
    rule::{InterfaceId, Rule},
};
use crate::wire::port::Port;

/// The MAP address under `rule` of whoever has `address` and `port`; nothing where nobody can have them: an address
/// outside the rule, a port in no set, a port of another PSID than the rule's own.
///
/// For the customer edge itself, for the destination of a forwarding rule, for a border relay, and to check an outer source
/// against its inner one (§8.1). Two halves of 64 bits, because a BPF program has no wider registers.
#[inline(always)]
pub fn map_address(rule: &Rule, address: [u8; 4], port: Port) -> Option<[u8; 16]> {
    let ipv4 = u64::from(u32::from_be_bytes(address));
    let prefix = u64::from(u32::from_be_bytes(rule.ipv4()));
    let suffix_len = 32u32.wrapping_sub(u32::from(rule.ipv4_len())) & 63;
    if (ipv4 ^ prefix) >> suffix_len != 0 {
        return None;
    }
    let ea_len = u32::from(rule.ea_len()) & 63;
    let psid = u64::from(PortSet::psid_of(rule.offset(), rule.psid_len(), port)?.0);
    if rule.explicit_psid().is_some_and(|own| u64::from(own.0) != psid) {
        return None;
    }
    let suffix = ipv4 & ones(suffix_len);
    // The part of the address that the EA bits hold: all of it and the PSID behind, or its first o bits (a prefix).
    let (ea, shown) = if ea_len >= suffix_len {
        let psid_bits = ea_len.wrapping_sub(suffix_len) & 63;
        ((suffix << psid_bits) | (psid & ones(psid_bits)), ipv4)
    } else {
        let hidden = suffix_len.wrapping_sub(ea_len) & 63;
        (suffix >> hidden, ipv4 & !ones(hidden))
    };
    // A rule without EA bits and shorter than an address gives that prefix; its PSID is zero.
    let psid = if rule.psid_len() == 0 { 0 } else { psid };
    Some(assemble(rule, ea, shown, psid))
}

/// Puts prefix, EA bits and interface identifier together.
#[inline(always)]
fn assemble(rule: &Rule, ea: u64, ipv4: u64, psid: u64) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = rule.ipv6();
    let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let low = u64::from_be_bytes([i, j, k, l, m, n, o, p]);
    let identifier = if rule.format() == InterfaceId::DRAFT03 { (ipv4 << 24) | (psid << 8) } else { (ipv4 << 16) | psid };
    // The EA bits end at bit n + o of the address: put them into the half or halves that they fall into.
    let end = u32::from(rule.end_user_len());
    let (ea_high, ea_low) = if end <= 64 {
        (shl(ea, 64u32.wrapping_sub(end)), 0)
    } else {
        let behind = end.wrapping_sub(64);
        (shr(ea, behind), shl(ea, 128u32.wrapping_sub(end)))
    };
    // An end-user prefix longer than 64 bits overwrites the first bits of the identifier (§6).
    let kept = if end <= 64 { u64::MAX } else { ones(128u32.wrapping_sub(end)) };
    let bytes_high = (high | ea_high).to_be_bytes();
    let bytes_low = (low | ea_low | (identifier & kept)).to_be_bytes();
    let [a, b, c, d, e, f, g, h] = bytes_high;
    let [i, j, k, l, m, n, o, p] = bytes_low;
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// `count` ones at the low end.
#[inline(always)]
const fn ones(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1u64 << (count & 63)).wrapping_sub(1) }
}

#[inline(always)]
const fn shl(value: u64, by: u32) -> u64 {
    if by >= 64 { 0 } else { value << (by & 63) }
}

#[inline(always)]
const fn shr(value: u64, by: u32) -> u64 {
    if by >= 64 { 0 } else { value >> (by & 63) }
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::map::rule::RuleSpec;

    fn rule(ipv6: &str, ipv6_len: u8, ipv4: &str, ipv4_len: u8, ea_len: u8, offset: u8, format: InterfaceId) -> Rule {
        Rule::new(&RuleSpec {
            ipv6: ipv6.parse::<Ipv6Addr>().unwrap().octets(),
            ipv6_len,
            ipv4: ipv4.parse::<Ipv4Addr>().unwrap().octets(),
            ipv4_len,
            ea_len,
            offset,
            psid: None,
            format,
            fmr: true,
        })
        .unwrap()
    }

    fn of(rule: &Rule, address: &str, port: u16) -> Option<String> {
        map_address(rule, address.parse::<Ipv4Addr>().unwrap().octets(), Port(port)).map(|a| Ipv6Addr::from(a).to_string())
    }

    #[test]
    fn addresses_of_the_rfc_of_vpp_and_of_csit() {
        let rfc = InterfaceId::RFC7597;
        let draft = InterfaceId::DRAFT03;
        for (rule, address, port, expected) in [
            (rule("2001:db8::", 40, "192.0.2.0", 24, 16, 6, rfc), "192.0.2.18", 1232, "2001:db8:12:3400:0:c000:212:34"),
            (rule("2001:db8::", 40, "192.0.2.0", 24, 16, 6, draft), "192.0.2.18", 1232, "2001:db8:12:3400:c0:2:1200:3400"),
            (rule("2001:db8:12:3400::", 56, "192.0.2.18", 32, 0, 6, rfc), "192.0.2.18", 1232, "2001:db8:12:3400:0:c000:212:0"),
            (rule("2001::", 32, "192.168.0.0", 16, 20, 4, rfc), "192.168.1.1", 10000, "2001:0:101:7000:0:c0a8:101:7"),
            (rule("2001::", 32, "192.168.0.0", 16, 20, 4, rfc), "192.168.1.1", 30000, "2001:0:101:5000:0:c0a8:101:5"),
            (rule("2001:db8:f0::", 48, "198.18.0.0", 24, 12, 6, rfc), "198.18.0.12", 16606, "2001:db8:f0:c30:0:c612:c:3"),
            (rule("2001:db8::", 32, "20.0.0.0", 8, 4, 0, rfc), "20.169.201.219", 1232, "2001:db8:a000::14a0:0:0"),
            (rule("2001:db8::", 32, "20.0.0.0", 8, 10, 0, rfc), "20.169.201.219", 1232, "2001:db8:a9c0::14a9:c000:0"),
            (rule("2001:db8::", 32, "20.169.201.0", 24, 7, 0, rfc), "20.169.201.219", 1232, "2001:db8:da00::14a9:c9da:0"),
            (rule("2001:db8::", 32, "20.169.201.0", 24, 8, 0, rfc), "20.169.201.219", 1232, "2001:db8:db00::14a9:c9db:0"),
            (rule("2001:db8::", 32, "20.0.0.0", 8, 32, 6, rfc), "20.169.201.219", 1232, "2001:db8:a9c9:db34:0:14a9:c9db:34"),
            (rule("2001:db8::", 32, "20.169.192.0", 20, 17, 6, rfc), "20.169.201.219", 1232, "2001:db8:9db3::14a9:c9db:6"),
            (rule("240b:10::", 32, "106.72.0.0", 16, 24, 4, draft), "106.72.50.81", 5696, "240b:10:3251:6400:6a:4832:5100:6400"),
            (rule("2400:4050::", 34, "153.240.0.0", 16, 22, 6, draft), "153.240.72.209", 1376, "2400:4050:1234:5600:99:f048:d100:1600"),
        ] {
            let expected = expected.parse::<Ipv6Addr>().unwrap().to_string();
            assert_eq!(of(&rule, address, port), Some(expected), "{address}:{port}");
        }
    }

    #[test]
    fn who_cannot_have_an_address_and_port_has_no_map_address() {
        let shared = rule("2001:db8::", 40, "192.0.2.0", 24, 16, 6, InterfaceId::RFC7597);
        assert_eq!(of(&shared, "192.0.3.18", 1232), None, "outside the rule");
        assert_eq!(of(&shared, "192.0.2.18", 1023), None, "A = 0");
        let spec = RuleSpec {
            ipv6: "2001:db8:12:3400::".parse::<Ipv6Addr>().unwrap().octets(),
            ipv6_len: 56,
            ipv4: [192, 0, 2, 18],
            ipv4_len: 32,
            ea_len: 0,
            offset: 6,
            psid: Some((8, 0x34)),
            format: InterfaceId::RFC7597,
            fmr: false,
        };
        let explicit = Rule::new(&spec).unwrap();
        assert_eq!(of(&explicit, "192.0.2.18", 1232).as_deref(), Some("2001:db8:12:3400:0:c000:212:34"));
        assert_eq!(of(&explicit, "192.0.2.18", 1236), None, "the next PSID");
    }

    #[test]
    fn an_end_user_prefix_longer_than_64_bits_overwrites_the_identifier() {
        // n = 60, o = 16: EA bits reach 12 bits into the identifier, whose own first 16 bits are zero.
        let long = rule("2001:db8:0:10::", 60, "192.0.2.0", 24, 16, 6, InterfaceId::RFC7597);
        assert_eq!(of(&long, "192.0.2.18", 1232).as_deref(), Some("2001:db8:0:11:2340:c000:212:34"));
    }
}
