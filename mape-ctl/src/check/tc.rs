//! Owns finding who else has programs or filters at an interface: TCX programs, and filters of a clsact or ingress qdisc.

use aya::programs::{SchedClassifier, TcAttachType};

use super::Trouble;
use crate::netlink::{
    Netlink,
    filter::{Filter, Side},
};

/// A program or filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Classifier {
    pub(super) side: Side,
    /// The kernel's number, of a BPF program.
    pub(super) id: Option<u32>,
    /// The program's name, or the kind of filter.
    pub(super) name: String,
    /// A filter's place in its qdisc; none for a program of TCX.
    pub(super) preference: Option<u16>,
}

/// All at an interface. What the kernel does not tell is not there.
pub(super) fn gather(netlink: &Netlink, index: u32, interface: &str) -> Vec<Classifier> {
    let mut found = Vec::new();
    for (side, attach_type) in [
        (Side::Ingress, TcAttachType::Ingress),
        (Side::Egress, TcAttachType::Egress),
    ] {
        let programs = SchedClassifier::query_tcx(interface, attach_type).map_or_else(|_| Vec::new(), |(_, list)| list);
        found.extend(programs.into_iter().map(|program| Classifier {
            side,
            id: Some(program.id()),
            name: program.name_as_str().unwrap_or("name unknown").to_owned(),
            preference: None,
        }));
        let filters = netlink.filters(index, side).unwrap_or_default();
        found.extend(filters.into_iter().map(|filter: Filter| Classifier {
            side,
            id: filter.program,
            name: filter.name.unwrap_or(filter.kind),
            preference: Some(filter.preference),
        }));
    }
    found
}

/// What to say of those that are not `own` programs.
pub(super) fn others(interface: &str, found: &[Classifier], own: &[u32]) -> Vec<Trouble> {
    found
        .iter()
        .filter(|classifier| classifier.id.is_none_or(|id| !own.contains(&id)))
        .map(|classifier| trouble(interface, classifier))
        .collect()
}

fn trouble(interface: &str, classifier: &Classifier) -> Trouble {
    let Classifier {
        side,
        id,
        name,
        preference,
    } = classifier;
    let side = side.name();
    let named = id.map_or_else(|| name.clone(), |id| format!("{name} (id {id})"));
    match preference {
        Some(preference) => Trouble::new(
            format!("the tc filter {named} is at {interface} {side}"),
            format!("tc filter del dev {interface} {side} pref {preference}"),
        ),
        None => Trouble::new(
            format!("the tc program {named} is at {interface} {side}"),
            format!("end the program that has attached it (bpftool net show dev {interface}; bpftool prog show)"),
        ),
    }
}
