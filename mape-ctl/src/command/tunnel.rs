//! `mape-ctl tunnel`: carries tunnelled packets in user space until a signal ends it.

use std::{
    io::{self, Write as _},
    path::Path,
    rc::Rc,
};

use anyhow::{Context as _, Result, ensure};
use tokio::runtime::Builder;

use super::load::report;
use crate::{
    cli::{LoadArgs, TunnelArgs},
    config,
    datapath::pin::PinFolder,
    gateway::{self, Gateway, TunnelKind},
    host::{
        address, nic,
        tunnel::{self as device, Line},
    },
    instance::Instance,
    kernel,
    netlink::Netlink,
    post::{Held, Post},
    tunnel::{
        self, End, Signals, Tunnel, TunnelError,
        ends::{Ends, EndsError},
        status::{Shared, Status},
    },
    undo::Undo,
};

/// Carries packets until a signal asks for the end.
///
/// # Errors
/// Whatever stands in the way; what was made for the tunnel alone is taken away.
pub fn run(instance: &Instance, args: &TunnelArgs) -> Result<()> {
    kernel::check_root("tunnel")?;
    if args.detached {
        // Already the first of a session is as good.
        let _ = rustix::process::setsid();
    }
    let mut held = Held::take(Post::Tunnel, instance)?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the tunnel's runtime")?;
    // From here on a signal does not end the process half-way.
    let mut signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    let netlink = Rc::new(Netlink::open()?);
    let mut undo = Undo::default();
    let mut ends = match &args.config {
        Some(file) => make(instance, file, &netlink, &mut undo)?,
        None => Ends::loaded(instance, args.name.as_deref())?,
    };
    let counts = Shared::default();
    let print = |status: &Status<'_>| {
        let line = if args.json { status.json() } else { status.text() };
        // Nobody may be listening any more.
        let _ = writeln!(io::stdout().lock(), "{line}");
    };
    loop {
        let (index, interface) = tunnel::find(&netlink, &ends)?;
        let from = (args.config.is_none(), args.name.as_deref());
        let end = runtime.block_on(async {
            let tunnel = Tunnel::open(instance, ends, (index, interface.as_deref()), from, &counts)?;
            held.ready()?;
            let end = tunnel.run(&mut signals, &print).await;
            if !matches!(end, Ok(End::Changed)) {
                tunnel.report(&print);
            }
            end
        });
        match end {
            // `unload` removes the device when it has not seen the process end in time: that is no failure of it.
            Err(TunnelError::DeviceGone(_)) if args.config.is_none() && !PinFolder::new(instance).exists() => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
            Ok(End::Asked) => return Ok(()),
            Ok(End::Changed) => ends = Ends::loaded(instance, args.name.as_deref())?,
        }
    }
}

/// Makes what `load` would make for the tunnel alone.
fn make(instance: &Instance, file: &Path, netlink: &Rc<Netlink>, undo: &mut Undo) -> Result<Ends> {
    ensure!(
        !PinFolder::new(instance).exists(),
        "instance {instance} is loaded: leave --config out, or give this one another name (--instance)"
    );
    let resolved = config::resolve(
        instance,
        &LoadArgs {
            config: Some(file.to_owned()),
            ..LoadArgs::default()
        },
    )?;
    report(&[], &resolved.warnings)?;
    let gateway: &Gateway = &resolved.gateway;
    let mut ends = Ends::configured(instance, gateway)?;
    let interfaces = netlink.interfaces()?;
    let wan = nic::find(&interfaces, &gateway.wan)?;
    let domain = gateway
        .domain
        .as_ref()
        .ok_or_else(|| EndsError::Relay(instance.clone()))?;
    let wanted = gateway::Tunnel {
        // Whatever the kernel can: this process is to carry the packets.
        kind: TunnelKind::User,
        ..gateway.tunnel.clone()
    };
    let line = Line {
        tunnel: &wanted,
        near: domain.ce_address(),
        relay: gateway.relay,
        shared: domain.ipv4(),
        rules: gateway.rules.len(),
    };
    let mut ready = device::ensure(netlink, undo, instance, &line)?;
    if ready.record.made {
        // Also one that an earlier run has left behind.
        let (again, of, name) = (Rc::clone(netlink), instance.clone(), gateway.tunnel.device.clone());
        undo.push(format!("remove {name}"), move || {
            device::remove(&again, &of, &name).map(|_| ()).map_err(Into::into)
        });
    }
    let occupied = device::route(netlink, undo, &ready.interface, &wanted, &mut ready.record, None)?;
    ready.warnings.extend(occupied);
    report(&ready.messages, &ready.warnings)?;
    ends.routes = ready.record.routes;
    let (made, note) = address::ensure(netlink, undo, &wan, domain.ce_address())?;
    let made: Vec<String> = made
        .into_iter()
        .map(|made| format!("added {}/{} to {}", made.address, made.len, made.interface))
        .collect();
    report(&made, &note.into_iter().collect::<Vec<_>>())?;
    Ok(ends)
}
