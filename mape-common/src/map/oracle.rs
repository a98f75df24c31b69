//! A second opinion: the addresses of RFC 7597 §5–§6 put together from text of noughts and ones, compared over rules of
//! every shape.
#![expect(clippy::cast_possible_truncation, reason = "numbers without pattern are cut to size")]

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    map::{
        address::map_address,
        domain::{Domain, GivenPsid},
        prefix::{Ipv4Prefix, Ipv6Prefix},
        rule::{InterfaceId, Rule},
        spec::RuleSpec,
    },
    wire::port::Port,
};

/// The MAP address, bit by bit.
fn oracle(spec: &RuleSpec, ipv4: Ipv4Addr, port: u16) -> Option<Ipv6Addr> {
    let (r, o) = (usize::from(spec.ipv4.len()), usize::from(spec.ea_len));
    let ipv4 = format!("{:032b}", ipv4.to_bits());
    let rule_ipv4 = format!("{:032b}", spec.ipv4.address().to_bits());
    if ipv4[..r] != rule_ipv4[..r] {
        return None;
    }
    let a = usize::from(spec.psid_offset);
    let k = spec.psid_len.map_or(o.saturating_sub(32 - r), usize::from);
    let port = format!("{port:016b}");
    let psid = &port[a..a + k];
    if k > 0 && a > 0 && !port[..a].contains('1') {
        return None;
    }
    if spec
        .psid
        .is_some_and(|own| u16::from_str_radix(psid, 2).unwrap() != own)
    {
        return None;
    }
    // What follows the rule's IPv4 prefix, in order: the rest of the address, then the PSID.
    let behind = format!("{}{}", &ipv4[r..], psid);
    let ea = &behind[..o];
    let owned = if r + o < 32 {
        format!("{}{ea}{}", &ipv4[..r], "0".repeat(32 - r - o))
    } else {
        ipv4.clone()
    };
    let padded = format!("{}{psid}", "0".repeat(16 - k));
    let identifier = match spec.format {
        InterfaceId::Rfc7597 => format!("{}{owned}{padded}", "0".repeat(16)),
        InterfaceId::Draft03 => format!("{}{owned}{padded}{}", "0".repeat(8), "0".repeat(8)),
    };
    let rule_ipv6 = format!("{:0128b}", spec.ipv6.address().to_bits());
    let prefix = format!("{}{ea}", &rule_ipv6[..spec.ipv6.len().into()]);
    let subnet = "0".repeat(64_usize.saturating_sub(prefix.len()));
    let whole = format!("{prefix}{subnet}{}", &identifier[prefix.len().saturating_sub(64)..]);
    assert_eq!(whole.len(), 128);
    Some(Ipv6Addr::from_bits(u128::from_str_radix(&whole, 2).unwrap()))
}

/// Numbers without pattern (SplitMix64), the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Every r and o, and for each some rules of all other kinds.
fn rules(numbers: &mut Numbers) -> Vec<RuleSpec> {
    let mut made = Vec::new();
    for r in 0..=32_u8 {
        for o in 0..=(48 - r).min(48) {
            for _ in 0..4 {
                made.push(random_rule(numbers, r, o));
            }
        }
    }
    made
}

fn random_rule(numbers: &mut Numbers, r: u8, o: u8) -> RuleSpec {
    let ipv6_len = numbers.below(u64::from(128 - o) + 1) as u8;
    let bits = u128::from(numbers.next()) << 64 | u128::from(numbers.next());
    let from_ea = o.saturating_sub(32 - r);
    // A PSID of its own only where the EA bits end with the address.
    let own_len = if r + o == 32 { numbers.below(17) as u8 } else { 0 };
    let k = from_ea.max(own_len);
    RuleSpec {
        ipv6: Ipv6Prefix::truncated(Ipv6Addr::from_bits(bits), ipv6_len),
        ipv4: Ipv4Prefix::truncated(Ipv4Addr::from_bits(numbers.next() as u32), r),
        ea_len: o,
        psid_offset: numbers.below(u64::from((16 - k).min(15)) + 1) as u8,
        psid_len: (own_len > 0).then_some(own_len),
        psid: (own_len > 0).then(|| numbers.below(1 << own_len) as u16),
        format: if numbers.below(2) == 0 {
            InterfaceId::Rfc7597
        } else {
            InterfaceId::Draft03
        },
        fmr: false,
    }
}

/// An address in the rule's IPv4 prefix.
fn address_in(spec: &RuleSpec, numbers: &mut Numbers) -> Ipv4Addr {
    let free = u64::from(u32::MAX).checked_shr(spec.ipv4.len().into()).unwrap_or(0) as u32;
    Ipv4Addr::from_bits(spec.ipv4.address().to_bits() | (numbers.next() as u32 & free))
}

#[test]
fn addresses_are_those_put_together_bit_by_bit() {
    let mut numbers = Numbers(7597);
    let mut found = 0;
    let rules = rules(&mut numbers);
    for spec in &rules {
        let rule = Rule::new(spec).unwrap_or_else(|error| panic!("{spec:?}: {error}"));
        for _ in 0..40 {
            let inside = address_in(spec, &mut numbers);
            let anywhere = Ipv4Addr::from_bits(numbers.next() as u32);
            let own_port = spec.psid.map(|psid| {
                let set = crate::map::psid::PortSet::new(spec.psid_offset, spec.psid_len.unwrap(), psid).unwrap();
                set.port(numbers.below(set.len().into()) as u32).unwrap().0
            });
            for (ipv4, port) in [
                (inside, numbers.next() as u16),
                (inside, numbers.below(4096) as u16),
                (inside, own_port.unwrap_or(0)),
                (anywhere, numbers.next() as u16),
            ] {
                let expected = oracle(spec, ipv4, port);
                let got = map_address(&rule, ipv4.octets(), Port(port)).map(Ipv6Addr::from);
                assert_eq!(got, expected, "{spec:?} {ipv4}:{port}");
                found += usize::from(got.is_some());
            }
        }
    }
    assert!(found > rules.len() * 60, "too few addresses exist: {found}");
}

#[test]
fn a_customer_edge_owns_exactly_what_leads_to_its_address() {
    let mut numbers = Numbers(7598);
    for spec in rules(&mut numbers) {
        let rule = Rule::new(&spec).unwrap();
        let end_user_len = rule.end_user_len();
        let bits = spec.ipv6.address().to_bits()
            | (u128::from(numbers.next()) << 64 | u128::from(numbers.next()))
                & u128::MAX.checked_shr(spec.ipv6.len().into()).unwrap_or(0);
        let end_user = Ipv6Prefix::truncated(Ipv6Addr::from_bits(bits), end_user_len);
        let domain = Domain::new(end_user, &rule, GivenPsid::default()).unwrap();
        assert!(end_user.contains(domain.ce_address()), "{spec:?}");
        for _ in 0..20 {
            let free = u64::from(u32::MAX).checked_shr(domain.ipv4().len().into()).unwrap_or(0) as u32;
            let owned = Ipv4Addr::from_bits(domain.ipv4_address().to_bits() | (numbers.next() as u32 & free));
            let port = domain
                .port_set()
                .port(numbers.below(domain.port_set().len().into()) as u32)
                .unwrap();
            let there = map_address(&rule, owned.octets(), port).map(Ipv6Addr::from);
            assert_eq!(there, Some(domain.ce_address()), "{spec:?} {owned}:{port:?}");

            let other = Port(numbers.next() as u16);
            let elsewhere = map_address(&rule, owned.octets(), other).map(Ipv6Addr::from);
            assert_eq!(
                elsewhere == Some(domain.ce_address()),
                domain.port_set().contains(other),
                "{spec:?} {owned}:{other:?}"
            );
        }
    }
}

#[test]
fn the_address_fields_of_every_ipv4_address_and_psid_are_told_apart() {
    // All 256 × 256 customer edges of RFC 7597's example: no two have one address, and each leads back to its own prefix.
    let rule = Rule::new(&RuleSpec::new(
        "2001:db8::/40".parse().unwrap(),
        "192.0.2.0/24".parse().unwrap(),
        16,
        6,
    ))
    .unwrap();
    let mut seen = std::collections::HashSet::new();
    for host in 0..=255_u8 {
        for psid in 0..=255_u16 {
            let port = Port(0x0400 | psid << 2);
            let address = Ipv6Addr::from(map_address(&rule, [192, 0, 2, host], port).unwrap());
            assert!(seen.insert(address));
            let domain = Domain::new(Ipv6Prefix::truncated(address, 56), &rule, GivenPsid::default()).unwrap();
            assert_eq!(domain.ipv4_address().octets(), [192, 0, 2, host]);
            assert_eq!((domain.port_set().psid().0, domain.ce_address()), (psid, address));
        }
    }
}
