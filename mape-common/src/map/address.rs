//! The MAP IPv6 address of who owns an IPv4 address and port (RFC 7597 §5.2, §5.3, §6).

use crate::{
    map::rule::{InterfaceId, Rule},
    wire::port::Port,
};

/// The MAP IPv6 address, network order, of the customer edge that owns an IPv4 address and port (or ICMP query identifier)
/// under a rule; none where the rule gives them to nobody.
///
/// The destination for packets that a rule forwards, and what an outer source must equal (RFC 7597 §8.1).
#[inline(always)]
pub fn map_address(rule: &Rule, ipv4: [u8; 4], port: Port) -> Option<[u8; 16]> {
    if !rule.contains_ipv4(ipv4) {
        return None;
    }
    let psid = u64::from(rule.psid_of(port)?.0);
    let ipv4 = u64::from(u32::from_be_bytes(ipv4));
    let rule_bits = u32::from(rule.ipv4_len());
    let suffix = ipv4 & ones(32_u32.wrapping_sub(rule_bits));
    let known = rule_bits.wrapping_add(u32::from(rule.ea_len()));
    let (ea, owned) = match known.checked_sub(32) {
        // Address and PSID; a PSID that is provisioned otherwise is not in the EA bits, which then end with the address.
        Some(0) => (suffix, ipv4),
        Some(psid_bits) => (suffix.wrapping_shl(psid_bits) | psid, ipv4),
        // A prefix: only its bits are embedded, and in the interface identifier it is padded with zeros.
        None => {
            let free = 32_u32.wrapping_sub(known);
            (suffix.wrapping_shr(free), ipv4 & !ones(free))
        }
    };
    let identifier = match rule.format() {
        InterfaceId::Rfc7597 => owned.wrapping_shl(16) | psid,
        InterfaceId::Draft03 => owned.wrapping_shl(24) | psid.wrapping_shl(8),
    };
    Some(assemble(rule, ea, identifier))
}

/// Rule IPv6 prefix, EA bits, subnet id 0, interface identifier; prefix and EA bits overwrite the identifier where they
/// reach into it.
#[inline(always)]
fn assemble(rule: &Rule, ea: u64, identifier: u64) -> [u8; 16] {
    let [p0, p1, p2, p3, p4, p5, p6, p7, q0, q1, q2, q3, q4, q5, q6, q7] = rule.ipv6();
    let high = u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]);
    let low = u64::from_be_bytes([q0, q1, q2, q3, q4, q5, q6, q7]);
    let end = u32::from(rule.end_user_len());
    let (high, low) = match end.checked_sub(64) {
        None | Some(0) => (high | ea.wrapping_shl(64_u32.wrapping_sub(end) & 63), low | identifier),
        Some(beyond) => {
            let below = 64_u32.wrapping_sub(beyond);
            // In two steps, because together they may be 64, and a shift by 64 would be one by zero.
            let in_high = ea.wrapping_shr(1).wrapping_shr(63_u32.wrapping_sub(below));
            (
                high | in_high,
                low | ea.wrapping_shl(below) | (identifier & ones(below)),
            )
        }
    };
    let [p0, p1, p2, p3, p4, p5, p6, p7] = high.to_be_bytes();
    let [q0, q1, q2, q3, q4, q5, q6, q7] = low.to_be_bytes();
    [p0, p1, p2, p3, p4, p5, p6, p7, q0, q1, q2, q3, q4, q5, q6, q7]
}

/// So many one bits at the right; up to 63.
#[inline(always)]
const fn ones(count: u32) -> u64 {
    1_u64.wrapping_shl(count).wrapping_sub(1)
}
