//! A mapping rule as the programs read it from a map (RFC 7597 §5).

use crate::{
    map::psid::{PortSet, Psid},
    wire::port::Port,
};

/// How the IPv4 address and the PSID stand in the interface identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InterfaceId {
    /// 16 zero bits, IPv4, PSID in 16 bits (RFC 7597 §6).
    Rfc7597,
    /// 8 zero bits, IPv4, PSID in 16 bits, 8 zero bits (draft-ietf-softwire-map-03 §6): what Japanese services use.
    Draft03,
}

impl InterfaceId {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Rfc7597, Self::Draft03];

    /// The word used in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rfc7597 => "rfc7597",
            Self::Draft03 => "draft-03",
        }
    }
}

/// A mapping rule, consistent by construction: [`Rule::new`] is the only way to make one.
///
/// A value of the map RULES. Aligned to 8 although its fields are not, so that the programs read the prefix in two loads
/// instead of sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct Rule {
    /// Rule IPv6 prefix; zero beyond its length.
    pub(super) ipv6_prefix: [u8; 16],
    /// Rule IPv4 prefix; zero beyond its length.
    pub(super) ipv4_prefix: [u8; 4],
    pub(super) ipv6_prefix_len: u8,
    pub(super) ipv4_prefix_len: u8,
    pub(super) ea_len: u8,
    pub(super) psid_offset: u8,
    pub(super) psid_len: u8,
    /// [`Self::DRAFT_03`] or zero.
    pub(super) format: u8,
    /// [`Self::FMR`] and [`Self::EXPLICIT_PSID`].
    pub(super) flags: u8,
    /// Zero.
    pub(super) reserved: u8,
    /// The PSID, host order, where [`Self::EXPLICIT_PSID`] is set; else zero.
    pub(super) psid: u16,
    /// Zero.
    pub(super) reserved2: [u8; 2],
}

const _: () = assert!(size_of::<Rule>() == 32);

// 16 + 4 + eight bytes + 2 + 2 = 32: fields fill the type, there is no padding.
#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod is a promise about bytes")]
// SAFETY: `repr(C)`, made of integers and byte arrays whose sizes add up to the asserted 32, so there is no padding and any
// bytes are a value.
unsafe impl aya::Pod for Rule {}

impl Rule {
    /// Value of `format` for [`InterfaceId::Draft03`].
    pub(super) const DRAFT_03: u8 = 1;
    /// Flag: the rule may be used to forward to other customer edges.
    pub(super) const FMR: u8 = 1;
    /// Flag: the PSID is not in the EA bits but provisioned with the rule.
    pub(super) const EXPLICIT_PSID: u8 = 2;

    /// Rule IPv6 prefix, network order, zero beyond its length.
    #[inline(always)]
    pub const fn ipv6(&self) -> [u8; 16] {
        self.ipv6_prefix
    }

    /// Length of the rule IPv6 prefix, bits, 0 to 128.
    #[inline(always)]
    pub const fn ipv6_len(&self) -> u8 {
        self.ipv6_prefix_len
    }

    /// Rule IPv4 prefix, network order, zero beyond its length.
    #[inline(always)]
    pub const fn ipv4(&self) -> [u8; 4] {
        self.ipv4_prefix
    }

    /// Length of the rule IPv4 prefix, bits: `r`, 0 to 32.
    #[inline(always)]
    pub const fn ipv4_len(&self) -> u8 {
        self.ipv4_prefix_len
    }

    /// Number of embedded-address bits: `o`, 0 to 48.
    #[inline(always)]
    pub const fn ea_len(&self) -> u8 {
        self.ea_len
    }

    /// Bits of a port before the PSID: `a`, 0 to 15; without meaning where [`Self::psid_len`] is zero.
    #[inline(always)]
    pub const fn offset(&self) -> u8 {
        self.psid_offset
    }

    /// Bits of the PSID: `k`, 0 to 16; zero where addresses are not shared.
    #[inline(always)]
    pub const fn psid_len(&self) -> u8 {
        self.psid_len
    }

    /// The PSID that is provisioned with the rule instead of being in the EA bits.
    #[inline(always)]
    pub const fn explicit_psid(&self) -> Option<Psid> {
        if self.flags & Self::EXPLICIT_PSID == 0 {
            None
        } else {
            Some(Psid(self.psid))
        }
    }

    /// Layout of the interface identifier.
    #[inline(always)]
    pub const fn format(&self) -> InterfaceId {
        if self.format == Self::DRAFT_03 {
            InterfaceId::Draft03
        } else {
            InterfaceId::Rfc7597
        }
    }

    /// Whether packets may be sent by this rule straight to other customer edges (a forwarding mapping rule, RFC 7597 §5).
    #[inline(always)]
    pub const fn is_fmr(&self) -> bool {
        self.flags & Self::FMR != 0
    }

    /// Length of the part of an end-user prefix that the rule defines: rule IPv6 prefix and EA bits, 0 to 128.
    #[inline(always)]
    pub const fn end_user_len(&self) -> u8 {
        self.ipv6_prefix_len.wrapping_add(self.ea_len)
    }

    /// Length of the IPv4 prefix that one customer edge has, bits, 0 to 32; 32 where it has an address, shared or not.
    #[inline(always)]
    pub const fn customer_ipv4_len(&self) -> u8 {
        let known = self.ipv4_prefix_len.wrapping_add(self.ea_len);
        if known > 32 { 32 } else { known }
    }

    /// Whether an IPv4 address is in the rule's IPv4 prefix.
    #[inline(always)]
    pub fn contains_ipv4(&self, address: [u8; 4]) -> bool {
        let differing = u64::from(u32::from_be_bytes(address) ^ u32::from_be_bytes(self.ipv4_prefix));
        differing.wrapping_shr(32_u32.wrapping_sub(u32::from(self.ipv4_prefix_len))) == 0
    }

    /// The PSID of the port's owner; none where the port is nobody's (A = 0), or not the provisioned PSID's.
    ///
    /// An address that is not shared has one owner for all ports: the algorithm is for shared ones (RFC 7597 §5.1).
    #[inline(always)]
    pub fn psid_of(&self, port: Port) -> Option<Psid> {
        if self.psid_len == 0 {
            return Some(Psid(0));
        }
        let a = u32::from(port.0).wrapping_shr(16_u32.wrapping_sub(u32::from(self.psid_offset)));
        if self.psid_offset != 0 && a == 0 {
            return None;
        }
        let psid = Psid::of(self.psid_offset, self.psid_len, port);
        if self.flags & Self::EXPLICIT_PSID != 0 && psid.0 != self.psid {
            return None;
        }
        Some(psid)
    }

    /// The ports of the customer edge with this PSID; all of them where addresses are not shared. None where the PSID needs
    /// more bits than the rule gives it.
    pub fn port_set(&self, psid: Psid) -> Option<PortSet> {
        if self.psid_len == 0 {
            return Some(PortSet::ALL);
        }
        PortSet::new(self.psid_offset, self.psid_len, psid.0).ok()
    }
}
