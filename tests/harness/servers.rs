//! Owns what answers on the Internet side: iperf3, a name server, a web server, a server that holds connections, and one of pages.

pub mod page;

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    lab::Lab,
    plan,
    process::{Background, wait_for},
};

/// Where the web server listens.
pub const HTTP_PORT: u16 = 80;
/// Where connections are only held.
pub const HOLD_PORT: u16 = 7000;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 8_192;
const POLL: Duration = Duration::from_millis(1);
/// No peer in the lab is slower than this.
const IO_LIMIT: Duration = Duration::from_secs(20);

/// Everything that answers; dropped, it stops.
#[derive(Debug)]
pub struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<Result<()>>>,
    programs: Vec<Background>,
    held: Held,
    files: PathBuf,
}

impl Servers {
    /// Starts all of them in the node `internet`.
    ///
    /// # Errors
    /// When one does not come up.
    pub fn start(lab: &Lab) -> Result<Self> {
        let internet = lab.node("internet")?;
        // So that hundreds of connections may arrive in one moment.
        internet.sysctl("core/somaxconn", &BACKLOG.to_string())?;
        internet.sysctl("ipv4/tcp_max_syn_backlog", &BACKLOG.to_string())?;
        let files = lab.folder().join("www");
        fs::create_dir_all(&files).with_context(|| format!("cannot create {}", files.display()))?;

        let (stop, held) = (Arc::new(AtomicBool::new(false)), Held::default());
        let listen = |port| {
            internet.enter(move || {
                let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
                    .with_context(|| format!("cannot listen on port {port}"))?;
                // std asks for room for 128; what a burst brings beyond that would come a second later.
                rustix::net::listen(&listener, BACKLOG).context("cannot lengthen the queue")?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })
        };
        let (web, holder, pages) = (listen(HTTP_PORT)?, listen(HOLD_PORT)?, listen(page::PORT)?);
        let mut threads = Vec::new();
        let (flag, folder) = (Arc::clone(&stop), files.clone());
        threads.push(thread::spawn(move || {
            accept(&web, &flag, |stream, _| {
                let folder = folder.clone();
                // One that fails is the client's to report.
                thread::spawn(move || drop(answer_http(&stream, &folder)));
            })
        }));
        let (flag, keeper) = (Arc::clone(&stop), held.clone());
        threads.push(thread::spawn(move || {
            accept(&holder, &flag, |stream, peer| keeper.add(stream, peer))
        }));
        let flag = Arc::clone(&stop);
        threads.push(thread::spawn(move || {
            accept(&pages, &flag, |stream, peer| {
                thread::spawn(move || drop(page::serve(&stream, peer)));
            })
        }));

        let mut servers = Self {
            stop,
            threads,
            programs: Vec::new(),
            held,
            files,
        };
        servers.start_programs(lab)?;
        Ok(servers)
    }

    /// The connections that the holding server has accepted.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// The folder the web server reads from and writes to.
    pub fn files(&self) -> &Path {
        &self.files
    }

    fn start_programs(&mut self, lab: &Lab) -> Result<()> {
        let dns = plan::DNS.to_string();
        let (name, address) = plan::NAME;
        let dnsmasq = format!(
            "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
             --bind-interfaces --listen-address={dns} --cache-size=0 --address=/{name}/{address}"
        );
        // Bound by name: an answer over UDP would otherwise come from the link's address.
        for line in [format!("iperf3 --server --bind {}", plan::SERVER), dnsmasq] {
            self.programs
                .push(lab.spawn("internet", &line.split_whitespace().collect::<Vec<_>>())?);
        }
        let internet = lab.node("internet")?;
        let listening =
            || Ok(internet.tool("ss -Hltn")?.contains(":5201") && internet.tool("ss -Hlun")?.contains(":53"));
        wait_for("iperf3 and dnsmasq", Duration::from_secs(10), listening)?;
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What it returns was of use only while it ran.
            let _ = thread.join();
        }
    }
}

/// Accepted connections, kept open.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<Vec<(TcpStream, SocketAddr)>>>);

impl Held {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Every connection's own address and the peer's, as this side sees them.
    ///
    /// # Errors
    /// When a socket has lost its address.
    pub fn pairs(&self) -> Result<Vec<(SocketAddr, SocketAddr)>> {
        self.lock()
            .iter()
            .map(|(stream, peer)| Ok((stream.local_addr()?, *peer)))
            .collect()
    }

    /// Sends each peer the port it is seen with, which proves that data passes on every connection.
    ///
    /// # Errors
    /// When one cannot be written to.
    pub fn greet(&self) -> Result<()> {
        for (stream, peer) in self.lock().iter() {
            let mut stream = stream;
            stream
                .write_all(&peer.port().to_be_bytes())
                .with_context(|| format!("cannot write to {peer}"))?;
        }
        Ok(())
    }

    /// Closes all.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn add(&self, stream: TcpStream, peer: SocketAddr) {
        self.lock().push((stream, peer));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(TcpStream, SocketAddr)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts until told to stop.
fn accept(listener: &TcpListener, stop: &AtomicBool, mut take: impl FnMut(TcpStream, SocketAddr)) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false)?;
                take(stream, peer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(POLL),
            Err(error) => return Err(error).context("cannot accept"),
        }
    }
    Ok(())
}

/// Answers one GET with a file or stores one PUT; what curl needs and no more.
fn answer_http(stream: &TcpStream, folder: &Path) -> Result<()> {
    stream.set_read_timeout(Some(IO_LIMIT))?;
    stream.set_write_timeout(Some(IO_LIMIT))?;
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().context("bad Content-Length")?;
        }
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut stream = stream;
    let Some(name) = Path::new(path).file_name() else {
        let greeting = "This is the Internet side of the lab.\n";
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{greeting}",
            greeting.len()
        )?;
        return Ok(());
    };
    match method {
        "GET" => {
            let Ok(mut file) = File::open(folder.join(name)) else {
                write!(
                    stream,
                    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )?;
                return Ok(());
            };
            let size = file.metadata()?.len();
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
            )?;
            io::copy(&mut file, &mut stream)?;
        }
        "PUT" => {
            let mut file = File::create(folder.join(name))?;
            io::copy(&mut reader.take(length), &mut file)?;
            file.flush()?;
            write!(
                stream,
                "HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )?;
        }
        other => bail!("method {other} is not known here"),
    }
    Ok(())
}
