//! Owns the tc filters at interfaces.

use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use super::{Netlink, NetlinkError};

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Out of the interface, into the machine.
    Ingress,
    /// Out of the machine.
    Egress,
}

impl Side {
    /// The word for it, as `tc` wants it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `bpf`, `u32`, `flower`, …
    pub kind: String,
    /// Its place: small ones come first.
    pub preference: u16,
    /// Of a BPF program: its name.
    pub name: Option<String>,
    /// And its number.
    pub program: Option<u32>,
}

impl Netlink {
    /// The filters at one side of an interface, one for each place. Without a qdisc for them there are none.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub fn filters(&self, index: u32, side: Side) -> Result<Vec<Filter>, NetlinkError> {
        let Ok(index) = i32::try_from(index) else {
            return Ok(Vec::new());
        };
        let mut handle = self.handle.traffic_filter(index);
        let request = match side {
            Side::Ingress => handle.get().ingress(),
            Side::Egress => handle.get().egress(),
        };
        let messages = match self.list("list the tc filters", request.execute()) {
            // The kernel has no such qdisc there, or none at all.
            Err(error) if matches!(error.source.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Vec::new(),
            other => other?,
        };
        let parent = TcHandle {
            major: TcHandle::CLSACT.major,
            minor: match side {
                Side::Ingress => TcHandle::MIN_INGRESS,
                Side::Egress => TcHandle::MIN_EGRESS,
            },
        };
        let mut filters: Vec<Filter> = Vec::new();
        // Where there is no clsact the kernel answers with what is at the device's root.
        for message in messages.iter().filter(|message| message.header.parent == parent) {
            let found = filter(message);
            match filters.iter_mut().find(|known| known.preference == found.preference) {
                // A classifier is listed first, then each of its entries.
                Some(known) => {
                    known.name = known.name.take().or(found.name);
                    known.program = known.program.or(found.program);
                }
                None => filters.push(found),
            }
        }
        Ok(filters)
    }
}

fn filter(message: &TcMessage) -> Filter {
    // The upper half is the preference, the lower the protocol.
    let preference = u16::try_from(message.header.info >> 16).unwrap_or(0);
    let mut found = Filter {
        kind: "filter".to_owned(),
        preference,
        name: None,
        program: None,
    };
    for attribute in &message.attributes {
        if let TcAttribute::Kind(kind) = attribute {
            found.kind.clone_from(kind);
        }
        let TcAttribute::Options(options) = attribute else {
            continue;
        };
        for option in options {
            if let TcOption::Bpf(TcFilterBpfOption::ProgName(name)) = option {
                found.name = Some(name.clone());
            }
            if let TcOption::Bpf(TcFilterBpfOption::ProgId(id)) = option {
                found.program = Some(*id);
            }
        }
    }
    found
}
