//! Owns `mape-ctl run`: a gateway loaded, and kept in accord with the machine around it until a signal ends this process, not the gateway.
//!
//! Waiting is asynchronous, work is not: one thing happens at a time, and what comes meanwhile waits in the kernel.

mod carrier;
mod early;
mod holder;
mod native;
mod pace;
mod service;

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    time::sleep_until,
};

use self::{carrier::Carrier, holder::Holder, native::Native, pace::Pace, service::Service};
use crate::{
    cli::LoadArgs,
    config::{self, ConfigError},
    datapath::{
        follow::Follower,
        load::{self, LoadError, Programs},
    },
    gateway::Gateway,
    instance::Instance,
    netlink::{NetlinkError, watch::Watch},
    post::{Held, Post, PostError},
};

/// Between two looks at least.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two looks when nothing is heard of: whatever was missed is found then.
const CALM: Duration = Duration::from_secs(30);
/// The same while something is missing.
const WAITING: Duration = Duration::from_secs(1);
/// Between two looks at what the path takes, of which nobody tells.
const PATH: Duration = Duration::from_secs(1);
/// Between two questions to a silent router.
const PROBE: Duration = Duration::from_secs(5);

/// Why `run` ends by itself.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum RunError {
    #[error(transparent)]
    Post(#[from] PostError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("cannot {action}")]
    Runtime { action: &'static str, source: io::Error },
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Runtime { action, source }
}

/// What `run` is woken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    End,
    Reload,
    TunnelEnded,
    /// There may be other firewall rules than before.
    Rules,
    /// It is time to renew the lease of native IPv6.
    Lease,
    /// It is time to look at the path to the border relay.
    Path,
    /// The kernel's tables are others than before, or it is time to look.
    Look,
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

/// Who looks after one gateway.
struct Daemon<'a> {
    instance: &'a Instance,
    args: &'a LoadArgs,
    follower: Follower,
    /// Of the NICs as they were loaded last.
    holder: Option<Holder>,
    native: Native,
    carrier: Carrier,
    service: Service,
    watch: Watch,
    signals: Signals,
    /// Set by the signals that end this process: a load that is under way is taken back.
    interrupted: Arc<AtomicBool>,
    loads: Pace,
    looked_at: Instant,
    probed_at: Instant,
    path_at: Instant,
    /// What was wrong at the last look at the path.
    path_error: Option<String>,
    is_waiting: bool,
}

/// Loads the gateway, and looks after it until a signal says that it is enough; the gateway stays as it is then.
///
/// # Errors
/// [`RunError`]: the gateway could not be loaded at the start, or the machine cannot be followed.
pub fn run(instance: &Instance, args: &LoadArgs) -> Result<(), RunError> {
    let mut held = Held::take(Post::Run, instance)?;
    let service = Service::new();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("start the runtime"))?;
    let interrupted = load::watch_signals(&[SIGINT, SIGTERM]).map_err(failed("watch for signals"))?;
    let (signals, watch) = {
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).map_err(failed("watch for signals"));
        let signals = Signals {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            hup: listen(SignalKind::hangup())?,
        };
        // Before anything is looked at: what changes from here on is heard of.
        (signals, Watch::open()?)
    };
    let mut carrier = Carrier::new(instance.clone());
    let (follower, holder) = put(
        instance,
        resolve(instance, args)?,
        Programs::Anew,
        &interrupted,
        &mut carrier,
    )?;
    let now = Instant::now();
    let native = Native::new(instance, runtime.handle().clone());
    let mut daemon = Daemon {
        instance,
        args,
        follower,
        holder,
        native,
        carrier,
        service,
        watch,
        signals,
        interrupted,
        loads: Pace::default(),
        looked_at: now,
        probed_at: now,
        path_at: now,
        path_error: None,
        is_waiting: false,
    };
    daemon.begin_native();
    held.ready()?;
    Service::ready("forwards, and is looked after");
    daemon.attend(&runtime)
}

/// The configuration as it is at this moment, with what is unwise about it said.
fn resolve(instance: &Instance, args: &LoadArgs) -> Result<Gateway, ConfigError> {
    let resolved = config::resolve(instance, args)?;
    warn(&resolved.warnings);
    Ok(resolved.gateway)
}

/// Puts a gateway into the kernel, sees to its tunnel, and begins to follow it.
fn put(
    instance: &Instance,
    gateway: Gateway,
    programs: Programs,
    interrupted: &Arc<AtomicBool>,
    carrier: &mut Carrier,
) -> Result<(Follower, Option<Holder>), RunError> {
    let mut loaded = load::load_until(&gateway, Arc::clone(interrupted), programs)?;
    carrier.take_over(gateway.tunnel.process, &mut loaded.done);
    say(&loaded.done.messages);
    warn(&loaded.done.warnings);
    let holder = Holder::start(instance, &loaded);
    Ok((Follower::new(gateway, instance.clone(), loaded)?, holder))
}

impl Daemon<'_> {
    fn attend(&mut self, runtime: &Runtime) -> Result<(), RunError> {
        loop {
            match runtime.block_on(self.wait()).map_err(failed("wait for changes"))? {
                Event::End => {
                    Service::stopping();
                    say(&["ends; the gateway goes on forwarding (`mape-ctl unload` ends that)".to_owned()]);
                    return Ok(());
                }
                Event::Reload => self.reload(),
                Event::Rules => {
                    say(self.native.look_anew().as_slice());
                    continue;
                }
                Event::Lease => {
                    say(self.native.look().as_slice());
                    continue;
                }
                Event::Path => {
                    self.look_at_path();
                    continue;
                }
                Event::TunnelEnded | Event::Look => {}
            }
            self.carrier.look();
            self.look();
            self.service.alive();
        }
    }

    async fn wait(&mut self) -> io::Result<Event> {
        let due = self.due();
        let neighbours_on = self.follower.neighbours_on();
        let (may_look, path_due) = (self.looked_at + PAUSE, self.path_at + PATH);
        let watches_path = self.follower.watches_path();
        let lease_due = self.native.due();
        let (watch, signals, carrier) = (&mut self.watch, &mut self.signals, &mut self.carrier);
        let native = &mut self.native;
        let changed = async {
            sleep_until(may_look.into()).await;
            watch.changed(&neighbours_on).await
        };
        tokio::select! {
            _ = signals.term.recv() => Ok(Event::End),
            _ = signals.int.recv() => Ok(Event::End),
            _ = signals.hup.recv() => Ok(Event::Reload),
            () = carrier.ended() => Ok(Event::TunnelEnded),
            changed = native.changed() => changed.map(|()| Event::Rules),
            () = sleep_until(lease_due.unwrap_or(due).into()), if lease_due.is_some() => Ok(Event::Lease),
            changed = changed => changed.map(|()| Event::Look),
            () = sleep_until(due.into()) => Ok(Event::Look),
            () = sleep_until(path_due.into()), if watches_path => Ok(Event::Path),
        }
    }

    /// When there is something to do although nothing is heard of.
    fn due(&self) -> Instant {
        let look = self.looked_at + if self.is_waiting { WAITING } else { CALM };
        let others = [Some(self.probed_at + PROBE), self.carrier.due(), self.service.due()];
        others.into_iter().flatten().fold(look, Instant::min)
    }

    /// Reads the configuration again and puts it into effect. If that fails, everything stays as it is.
    fn reload(&mut self) {
        Service::reloading();
        let done = resolve(self.instance, self.args)
            .map_err(RunError::from)
            .and_then(|gateway| self.put(gateway, Programs::Anew));
        if let Err(error) = done {
            complain("the configuration was not taken over, the gateway is as before", &error);
        }
        Service::ready("forwards, and is looked after");
    }

    fn put(&mut self, gateway: Gateway, programs: Programs) -> Result<(), RunError> {
        // A queue has one who holds its frames.
        self.holder = None;
        let (follower, holder) = put(self.instance, gateway, programs, &self.interrupted, &mut self.carrier)?;
        self.follower = follower;
        self.holder = holder;
        self.begin_native();
        Ok(())
    }

    /// After every load: it takes the lease back.
    fn begin_native(&mut self) {
        let said = self.native.begin(self.follower.gateway());
        say(said.as_slice());
    }

    fn look(&mut self) {
        self.looked_at = Instant::now();
        let look = match self.follower.look() {
            Ok(look) => look,
            Err(error) => {
                // Also what comes of a change in the midst of a look, of which the next one will be told.
                complain("could not look at the machine", &error);
                self.is_waiting = true;
                return;
            }
        };
        say(&look.messages);
        warn(&look.warnings);
        self.is_waiting = look.is_waiting;
        if let Some(why) = look.load_again {
            self.load_again(&why);
        } else if self.probed_at.elapsed() >= PROBE {
            self.probed_at = Instant::now();
            if let Err(error) = self.follower.probe() {
                complain("could not ask the routers whether they are there", &error);
            }
        }
    }

    fn look_at_path(&mut self) {
        self.path_at = Instant::now();
        match self.follower.look_at_path() {
            Ok(changed) => {
                self.path_error = None;
                say(changed.as_slice());
            }
            // Once a second the same is no news.
            Err(error) => {
                let text = Some(error.to_string());
                if self.path_error != text {
                    complain("the routes into the tunnel keep their MTU", &error);
                    self.path_error = text;
                }
            }
        }
    }

    /// Loads the gateway again because of what has happened to the machine; not as often as something may undo it.
    fn load_again(&mut self, why: &str) {
        self.is_waiting = true;
        if !self.loads.may_begin(Instant::now()) {
            return;
        }
        say(&[format!("{why}: the gateway is loaded again")]);
        let gateway = self.follower.gateway().clone();
        if let Err(error) = self.put(gateway, Programs::AsTheyAre) {
            complain("could not load the gateway again", &error);
        }
    }
}

/// To standard output, for whoever collects it.
fn say(messages: &[String]) {
    use std::io::Write as _;
    let mut out = io::stdout().lock();
    for message in messages {
        // Nobody may be listening any more.
        let _ = writeln!(out, "{message}");
    }
    let _ = out.flush();
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        eprintln!("mape-ctl: warning: {warning}");
    }
}

/// An error and its causes in one line: this process goes on.
fn complain(what: &str, error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    warn(&[format!("{what}: {text}")]);
}
