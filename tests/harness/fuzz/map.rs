//! Any rule, address and port: what a rule maps to an address leads back to who has it.

use std::net::{Ipv4Addr, Ipv6Addr};

use arbitrary::{Result, Unstructured};
use mape_common::{
    map::{
        address::map_address,
        domain::{Domain, GivenPsid},
        prefix::{Ipv4Prefix, Ipv6Prefix},
        psid::{PortSet, Psid},
        rule::{InterfaceId, Rule},
        spec::RuleSpec,
    },
    wire::port::Port,
};

/// Makes rules and port sets of the bytes and asks them.
///
/// # Panics
/// Where an answer contradicts another.
pub fn run(data: &[u8]) {
    let mut input = Unstructured::new(data);
    // What is too short for a rule says nothing.
    let _ = ask(&mut input);
}

fn ask(input: &mut Unstructured<'_>) -> Result<()> {
    let (offset, psid_len, psid) = (
        input.arbitrary::<u8>()? % 18,
        input.arbitrary::<u8>()? % 18,
        input.arbitrary()?,
    );
    let port = Port(input.arbitrary()?);
    if let Ok(set) = PortSet::new(offset, psid_len, psid) {
        sets(set, port, input.arbitrary()?);
    }
    let spec = spec(input)?;
    let Ok(rule) = Rule::new(&spec) else { return Ok(()) };
    let again = Rule::new(&RuleSpec::from(&rule));
    assert_eq!(again.as_ref(), Ok(&rule), "a rule read from itself");
    let inside: u32 = input.arbitrary()?;
    let mask = u32::MAX.checked_shr(rule.ipv4_len().into()).unwrap_or(0);
    let address = (u32::from_be_bytes(rule.ipv4()) | inside & mask).to_be_bytes();
    assert!(rule.contains_ipv4(address), "an address of the rule");
    mapped(&rule, address, port);
    let elsewhere: [u8; 4] = input.arbitrary()?;
    let is_inside = Ipv4Prefix::truncated(rule.ipv4().into(), rule.ipv4_len()).contains(elsewhere.into());
    assert_eq!(rule.contains_ipv4(elsewhere), is_inside);
    assert!(is_inside || map_address(&rule, elsewhere, port).is_none());
    end_user(&rule, input)
}

fn spec(input: &mut Unstructured<'_>) -> Result<RuleSpec> {
    let ipv6 = Ipv6Addr::from(input.arbitrary::<[u8; 16]>()?);
    let ipv6 = Ipv6Prefix::truncated(ipv6, input.arbitrary::<u8>()? % 129);
    let ipv4 = Ipv4Addr::from(input.arbitrary::<[u8; 4]>()?);
    let ipv4 = Ipv4Prefix::truncated(ipv4, input.arbitrary::<u8>()? % 33);
    let flags: u8 = input.arbitrary()?;
    let (psid_len, psid): (u8, u16) = (input.arbitrary()?, input.arbitrary()?);
    Ok(RuleSpec {
        ipv6,
        ipv4,
        ea_len: input.arbitrary::<u8>()? % 50,
        psid_offset: input.arbitrary::<u8>()? % 18,
        psid_len: (flags & 1 != 0).then_some(psid_len % 18),
        psid: (flags & 2 != 0).then_some(psid),
        format: InterfaceId::ALL[usize::from(flags >> 2 & 1)],
        fmr: flags & 8 != 0,
    })
}

/// A set's ports and their places.
fn sets(set: PortSet, port: Port, number: u32) {
    let ordinal = set.ordinal(port);
    assert_eq!(ordinal.is_some(), set.contains(port));
    if let Some(ordinal) = ordinal {
        assert!(ordinal < set.len());
        assert_eq!(set.port(ordinal), Some(port), "a port of its place");
        assert_eq!(set.psid_of(port), set.psid());
    }
    let ordinal = number % set.len();
    let place = set.port(ordinal).and_then(|port| set.ordinal(port));
    assert_eq!(place, Some(ordinal), "a place of its port");
    assert_eq!(set.port(set.len()), None);
    let next = set.port(ordinal + 1);
    assert!(next.is_none_or(|next| Some(next) > set.port(ordinal)), "ascending");
    let ranges = set.ranges().count();
    if ranges <= 64 {
        let ports: u32 = set.ranges().map(|(a, b)| u32::from(b.0) - u32::from(a.0) + 1).sum();
        assert_eq!(ports, set.len(), "ports in ranges");
    }
}

/// An address of the rule and a port, and the customer edge that has them.
fn mapped(rule: &Rule, address: [u8; 4], port: Port) {
    let Some(end) = map_address(rule, address, port) else {
        assert_eq!(rule.psid_of(port), None, "only a port that nobody has leads nowhere");
        return;
    };
    let psid = rule.psid_of(port).expect("what is mapped has an owner");
    let end_user = Ipv6Prefix::truncated(end.into(), rule.end_user_len());
    let edge = Domain::new(end_user, rule, GivenPsid::default()).expect("the customer edge of a mapped address");
    assert_eq!(edge.ce_address(), Ipv6Addr::from(end), "there and back");
    assert!(edge.ipv4().contains(address.into()), "its IPv4 address");
    assert!(edge.port_set().contains(port), "its port");
    if rule.psid_len() > 0 {
        assert_eq!(edge.port_set().psid(), psid);
    }
}

/// Any end-user prefix of a rule, and what it has.
fn end_user(rule: &Rule, input: &mut Unstructured<'_>) -> Result<()> {
    let own = u128::from_be_bytes(rule.ipv6());
    let behind = u128::MAX.checked_shr(rule.ipv6_len().into()).unwrap_or(0);
    let prefix = Ipv6Addr::from_bits(own | input.arbitrary::<u128>()? & behind);
    let longer = input.arbitrary::<u8>()? % 9;
    let prefix = Ipv6Prefix::truncated(prefix, rule.end_user_len().saturating_add(longer).min(128));
    let given = match input.arbitrary::<u8>()? & 3 {
        0 => GivenPsid {
            psid_len: Some(input.arbitrary::<u8>()? % 18),
            psid: Some(input.arbitrary()?),
        },
        _ => GivenPsid::default(),
    };
    let Ok(edge) = Domain::new(prefix, rule, given) else {
        assert!(
            given != GivenPsid::default(),
            "a prefix of the rule has a customer edge"
        );
        return Ok(());
    };
    let rule = edge.rule();
    let (address, set) = (edge.ipv4_address().octets(), edge.port_set());
    assert!(rule.contains_ipv4(address));
    let port = set
        .port(input.arbitrary::<u32>()? % set.len())
        .expect("a place of the set");
    let back = map_address(rule, address, port).map(Ipv6Addr::from);
    assert_eq!(back, Some(edge.ce_address()), "who has an edge's port");
    if rule.psid_len() > 0 {
        assert_eq!(Psid::of(rule.offset(), rule.psid_len(), port), set.psid());
    }
    let _ = edge.note();
    Ok(())
}
