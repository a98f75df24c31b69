//! Filling the maps with the gate closed, and keeping sessions of a running gateway where they are still right.

use mape_common::{
    layout::{Config, Gauge, SweepOrder},
    step::native::Lease,
};

use super::{LoadError, Loading};
use crate::{
    datapath::{
        forwards::{self, ForwardsError, Wanted},
        maps::Opening,
        nics,
        rules::RuleTables,
        sweep::Sweeper,
        tables::{self, Secrets},
    },
    gateway::Ipv6Forward,
    host::{neighbour, state},
};

impl Loading<'_> {
    /// Closes the gate of a running gateway but for the slow path, which has everything meanwhile; its reverse comes last of all, when everything else is as it was.
    pub(super) fn close_gate(&mut self) -> Result<bool, LoadError> {
        let was_open = self.tables.is_gate_open()?;
        if was_open {
            let tables = self.tables.clone();
            self.undo.push("open the gate again", move || {
                tables.set_gate(Opening::Whole).map_err(Into::into)
            });
            self.tables.set_gate(Opening::SlowPath)?;
        }
        Ok(was_open)
    }

    /// Writes every map, keeping the sessions of a running gateway where they are still right.
    pub(super) fn fill(&mut self) -> Result<(), LoadError> {
        let gateway = self.gateway;
        let old = if self.is_reload {
            Some(self.tables.config()?).filter(|config| config.tunnel_mtu != 0)
        } else {
            None
        };
        let secrets = match &old {
            Some(old) => Secrets::of(old),
            None => Secrets::new().map_err(LoadError::Random)?,
        };
        let mut new = tables::config(gateway, self.tunnel.as_ref().map_or(0, |device| device.index), secrets);
        let settings = self.tunnel.as_ref().and_then(|device| device.tunnel);
        if settings.is_some_and(|settings| settings.external) {
            new.flags |= Config::EXTERNAL_TUNNEL;
        }
        if self.is_reload {
            self.note_old_ports(old.as_ref())?;
            self.note_old_tables()?;
        }
        if let Some(domain) = &gateway.domain {
            let set = domain.port_set();
            let reserved = &gateway.nat.reserved_ports;
            match &old {
                Some(old) if tables::keeps_sessions(old, &new) && self.same_rules()? => {}
                Some(old) => {
                    self.is_new_line = true;
                    self.tables.set_gate(Opening::Closed)?;
                    // The sweeper leaves forwards alone; they are made again for the new line.
                    forwards::apply(&self.pins, &self.tables, &Wanted::default())?;
                    let ended = Sweeper::open(&self.pins)?.flush(&SweepOrder::default())?;
                    self.done.messages.push(format!(
                        "the line or its ports have changed: {ended} sessions were ended"
                    ));
                    self.clear_ports(old)?;
                    self.tables.set_ports(tables::fresh_ports(&set, reserved))?;
                }
                None => {
                    self.tables.fill_free_slots(new.sessions)?;
                    self.tables.set_ports(tables::fresh_ports(&set, reserved))?;
                }
            }
        }
        self.tables.set_rules(&self.hops.rules)?;
        self.tables.set_far_hops(&self.hops.words(state::now()))?;
        let addresses = self.netlink.addresses()?;
        for port in &self.ports {
            // A link that has been proven stays so: its program is replaced, not attached anew.
            let known = if self.is_attached(&port.nic) {
                self.tables.link_words(port.nic.index)?[1]
            } else {
                0
            };
            self.tables
                .set_link_words(port.nic.index, nics::words(&port.nic, &addresses, known))?;
        }
        // Who looks after the gateway gives it anew.
        self.tables
            .set_native_lease(if gateway.ipv6_forward == Ipv6Forward::Always {
                Lease::FOR_EVER
            } else {
                Lease::NONE
            })?;
        self.tables.set_config(&new)?;
        Ok(())
    }

    /// Notes how to give a running gateway its forwards and reservations back, once its configuration is the old one again.
    fn note_old_ports(&mut self, old: Option<&Config>) -> Result<(), LoadError> {
        let Some(set) = old.filter(|old| old.ports != 0).map(|old| old.port_set) else {
            return Ok(());
        };
        let before = Wanted::in_kernel(&self.tables).map_err(ForwardsError::from)?;
        let (pins, tables) = (self.pins.clone(), self.tables.clone());
        self.undo.push("put forwards and reserved ports back", move || {
            if tables.gauges()?.get(Gauge::Records) == 0 {
                // Whatever another line had in these places is nobody's now.
                let reserved: Vec<u16> = before.reserved.iter().copied().collect();
                tables.set_ports(tables::fresh_ports(&set, &reserved))?;
            }
            forwards::apply(&pins, &tables, &before)?;
            Ok(())
        });
        Ok(())
    }

    /// Makes forwards and reservations what they shall be, and sees to it that the hosts they lead to are known.
    pub(super) fn settle_ports(&mut self) -> Result<(), LoadError> {
        let gateway = self.gateway;
        let Some(domain) = &gateway.domain else { return Ok(()) };
        let forwarded = self.state.forwards.iter().map(|record| &record.forward);
        let wanted = Wanted::new(forwarded, &domain.port_set(), &gateway.nat.reserved_ports);
        if self.is_new_line {
            // Before the old configuration comes back, to which these ports mean nothing.
            let (pins, tables) = (self.pins.clone(), self.tables.clone());
            self.undo.push("take the new line's forwards away", move || {
                forwards::apply(&pins, &tables, &Wanted::default())?;
                Ok(())
            });
        }
        let changed = forwards::apply(&self.pins, &self.tables, &wanted)?;
        if changed.added + changed.removed > 0 || !self.state.forwards.is_empty() {
            self.done.messages.push(format!(
                "forwards: {} ports, {} of them new, {} gone",
                wanted.singles.len(),
                changed.added,
                changed.removed
            ));
        }
        if changed.ended > 0 {
            self.done.messages.push(format!(
                "{} sessions on ports that are forwarded, not forwarded any longer or reserved were ended",
                changed.ended
            ));
        }
        let lan = self.ports.iter().map(|port| port.nic.index).collect();
        let before = self.before.as_ref().map_or(&[][..], |before| &before.neighbours);
        let hosts = self.state.forwards.iter().map(|record| record.forward.inside);
        let (instance, mut making) = (&self.instance, self.underway.clone());
        let kept = neighbour::keep(&self.netlink, &mut self.undo, &lan, hosts, before, |made| {
            let anew = made.iter().filter(|made| !before.contains(made)).cloned();
            making.neighbours.extend(anew);
            making.write(instance).map_err(LoadError::from)
        })?;
        self.state.neighbours = kept.made;
        self.done.warnings.extend(kept.warnings);
        Ok(())
    }

    /// Notes how to give a running gateway back what it had.
    pub(super) fn note_old_tables(&mut self) -> Result<(), LoadError> {
        let (config, rules, hops) = (self.tables.config()?, self.tables.rules()?, self.tables.far_hops()?);
        let lease = self.tables.native_lease()?;
        let tables = self.tables.clone();
        self.undo.push("restore the configuration", move || {
            tables.set_rules(&rules)?;
            tables.set_far_hops(&hops)?;
            tables.set_native_lease(lease)?;
            tables.set_config(&config)?;
            Ok(())
        });
        Ok(())
    }

    /// Whether packets to the same addresses have the same far ends as before; next hops may differ.
    pub(super) fn same_rules(&self) -> Result<bool, LoadError> {
        let plain = |tables: RuleTables| {
            let mut forwarding: Vec<_> = tables
                .by_ipv4
                .iter()
                .map(|(len, prefix, found)| (*len, *prefix, found.rule))
                .collect();
            forwarding.sort_unstable();
            (tables.rules, forwarding)
        };
        Ok(plain(self.tables.rules()?) == plain(self.hops.rules.clone()))
    }

    /// Empties the port states of a gateway whose sessions have been ended: the rows may be of another length now.
    pub(super) fn clear_ports(&self, old: &Config) -> Result<(), LoadError> {
        Ok(self
            .tables
            .set_ports((0..old.ports.saturating_mul(3)).map(|index| (index, 0)))?)
    }
}
