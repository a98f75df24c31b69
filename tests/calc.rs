//! Owns the proof that MAP rules, port sets and addresses are what others publish and compute: every row of `vectors/`.

use std::{fmt, net::Ipv4Addr, net::Ipv6Addr, str::FromStr};

use mape_common::{
    map::{
        address::map_address,
        domain::{Domain, GivenPsid},
        psid::PortSet,
        rule::Rule,
        spec::{RuleError, RuleSpec},
    },
    wire::port::Port,
};

const VECTORS: &str = include_str!("vectors/vectors.csv");
const ADDRESSES: &str = include_str!("vectors/addresses.csv");
const REFUSALS: &str = include_str!("vectors/refusals.csv");

/// A line of a file, read by column name.
struct Row {
    names: Vec<&'static str>,
    line: &'static str,
}

fn rows(file: &'static str) -> Vec<Row> {
    let mut lines = file.lines();
    let names: Vec<_> = lines.next().expect("a head line").split(',').collect();
    lines
        .map(|line| Row {
            names: names.clone(),
            line,
        })
        .collect()
}

impl Row {
    fn text(&self, name: &str) -> &'static str {
        let fields: Vec<_> = self.line.split(',').collect();
        assert_eq!(fields.len(), self.names.len(), "{}", self.line);
        fields[self.names.iter().position(|known| *known == name).expect(name)]
    }

    fn get<T: FromStr<Err: fmt::Debug>>(&self, name: &str) -> T {
        self.text(name)
            .parse()
            .unwrap_or_else(|error| panic!("{name}: {error:?}: {}", self.line))
    }

    fn some<T: FromStr<Err: fmt::Debug>>(&self, name: &str) -> Option<T> {
        (!self.text(name).is_empty()).then(|| self.get(name))
    }

    fn spec(&self) -> RuleSpec {
        let spec = RuleSpec::new(
            self.get("rule_ipv6"),
            self.get("rule_ipv4"),
            self.get("ea_len"),
            self.get("psid_offset"),
        );
        if self.names.contains(&"format") {
            RuleSpec {
                format: self.get("format"),
                ..spec
            }
        } else {
            spec
        }
    }

    fn rule(&self) -> Rule {
        Rule::new(&self.spec()).unwrap_or_else(|error| panic!("{error}: {}", self.line))
    }

    fn domain(&self) -> Domain {
        let given = GivenPsid {
            psid_len: self.some("given_psid_len"),
            psid: self.some("given_psid"),
        };
        Domain::new(self.get("end_user_prefix"), &self.rule(), given)
            .unwrap_or_else(|error| panic!("{error}: {}", self.line))
    }
}

/// First and last port of a range written `first-last`.
fn range(text: &str) -> (u16, u16) {
    let (first, last) = text.split_once('-').expect(text);
    (first.parse().expect(text), last.parse().expect(text))
}

fn plain_ranges(ports: PortSet) -> Vec<(u16, u16)> {
    ports.ranges().map(|(first, last)| (first.0, last.0)).collect()
}

#[test]
fn every_line_gets_the_address_and_ports_that_others_compute() {
    let rows = rows(VECTORS);
    assert_eq!(rows.len(), 32);
    for row in rows {
        let domain = row.domain();
        let ports = domain.port_set();
        assert_eq!(domain.ipv4_address(), row.get::<Ipv4Addr>("ipv4"), "{}", row.line);
        assert_eq!(domain.ipv4().len(), 32, "{}", row.line);
        assert_eq!(ports.psid().0, row.get::<u16>("psid"), "{}", row.line);
        assert_eq!(ports.psid_len(), row.get::<u8>("psid_len"), "{}", row.line);
        assert_eq!(ports.offset(), row.get::<u8>("psid_offset"), "{}", row.line);
        assert_eq!(
            domain.ce_address().to_string(),
            row.text("ce_address"),
            "standard short form: {}",
            row.line
        );
        let ranges = plain_ranges(ports);
        assert_eq!(ranges.first(), Some(&range(row.text("first_range"))), "{}", row.line);
        assert_eq!(ranges.last(), Some(&range(row.text("last_range"))), "{}", row.line);
        assert_eq!(ports.len(), row.get::<u32>("ports"), "{}", row.line);
        let in_ranges: u32 = ranges.iter().map(|(first, last)| u32::from(last - first) + 1).sum();
        assert_eq!(in_ranges, ports.len(), "{}", row.line);
    }
}

#[test]
fn what_a_line_has_is_what_its_rule_gives_to_others() {
    for row in rows(VECTORS) {
        let domain = row.domain();
        let ipv4 = domain.ipv4_address().octets();
        for (first, last) in plain_ranges(domain.port_set()) {
            for port in [first, last] {
                let address = map_address(domain.rule(), ipv4, Port(port)).map(Ipv6Addr::from);
                assert_eq!(address, Some(domain.ce_address()), "port {port}: {}", row.line);
            }
            for port in [first.wrapping_sub(1), last.wrapping_add(1)] {
                let is_own = domain.port_set().contains(Port(port));
                let address = map_address(domain.rule(), ipv4, Port(port)).map(Ipv6Addr::from);
                assert_eq!(
                    address == Some(domain.ce_address()),
                    is_own,
                    "port {port}: {}",
                    row.line
                );
            }
        }
    }
}

#[test]
fn every_address_and_port_belongs_to_whom_others_say() {
    let rows = rows(ADDRESSES);
    assert_eq!(rows.len(), 31);
    for row in rows {
        let rule = row.rule();
        assert_eq!(rule.psid_len(), row.get::<u8>("psid_len"), "{}", row.line);
        let owner = map_address(&rule, row.get::<Ipv4Addr>("address").octets(), Port(row.get("port")));
        assert_eq!(owner.map(Ipv6Addr::from), Some(row.get("map_address")), "{}", row.line);
    }
}

#[test]
fn spoofed_sources_are_nobodys() {
    // FD.io VPP, test/test_map_br.py: what a border relay must drop, because the outer source is not the inner one's.
    let row = rows(ADDRESSES)
        .into_iter()
        .find(|row| row.text("address") == "198.18.0.12")
        .unwrap();
    let owner =
        |port| map_address(&row.rule(), [198, 18, 0, 12], Port(port)).map(|owner| Ipv6Addr::from(owner).to_string());
    let honest = "2001:db8:f0:c30:0:c612:c:3";
    assert_eq!(owner(16606).as_deref(), Some(honest));
    assert_ne!(owner(16862).as_deref(), Some(honest), "a port of another PSID");
    for spoofed in [
        "2001:db8:f0:c30:0:c612:1c:3",
        "2001:db8:f0:a00:0:c612:c:3",
        "2001:db8:f0:c30:0:c612:c:4",
        "2001:db8:f1:c30:0:c612:c:3",
    ] {
        assert_ne!(owner(16606).as_deref(), Some(spoofed));
    }
}

#[test]
fn lengths_that_contradict_each_other_are_refused_with_the_reason() {
    let rows = rows(REFUSALS);
    assert_eq!(rows.len(), 24);
    for row in rows {
        let psid_len: u8 = row.get("psid_len");
        let given = RuleSpec {
            psid_len: Some(psid_len),
            ..row.spec()
        };
        match Rule::new(&given) {
            Err(error @ RuleError::PsidLenMismatch { .. }) => {
                let said = format!("PSID length {psid_len} contradicts the rule");
                assert!(error.to_string().starts_with(&said), "{error}: {}", row.line);
            }
            // More than 16 bits of PSID: impossible whatever length is given.
            Err(RuleError::BeyondPort { .. }) => {}
            other => panic!("{other:?}: {}", row.line),
        }
    }
}

#[test]
fn a_line_with_a_prefix_has_all_ports_of_every_address() {
    let spec = RuleSpec::new("2001:db8::/32".parse().unwrap(), "20.0.0.0/8".parse().unwrap(), 4, 6);
    let domain = Domain::new(
        "2001:db8:a000::/36".parse().unwrap(),
        &Rule::new(&spec).unwrap(),
        GivenPsid::default(),
    );
    let domain = domain.unwrap();
    assert_eq!(domain.ipv4().to_string(), "20.160.0.0/12");
    assert_eq!((domain.port_set().len(), domain.port_set().psid_len()), (65_536, 0));
    assert_eq!(domain.ce_address().to_string(), "2001:db8:a000::14a0:0:0");
}
