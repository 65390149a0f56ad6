//! The whole evening: servers up, daemon up, clients in, kills by turns, and everything down again in
//! an order in which no client is cut by the end itself.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::failover::{Change, Transition};
use crate::model::{FailoverStatus, MonoTime, spoken};
use crate::sys::Clock;

use super::DemoOptions;
use super::cluster::{self, Client, Cluster};
use super::echo::EchoServers;
use super::load::{ECHO_CLIENTS, Load};
use super::postgres::Toolbox;
use super::proxy::Proxy;
use super::report::{News, Pool, Report, Voice};
use super::scratch::Scratch;
use super::script::{self, Cue, Stage};
use super::tally::{Count, Tally};

/// From one look at whether to stop to the next.
const LOOK: Duration = Duration::from_millis(20);

/// How PostgreSQL gets on.
enum Rising {
    Step(String),
    Up(Guests),
    Without(String),
}

/// What clients of PostgreSQL need to know.
struct Guests {
    client: Client,
    backends: Vec<(&'static str, SocketAddr)>,
}

/// What outlives the threads.
#[derive(Default)]
struct House {
    echo: Tally,
    postgres: Tally,
    /// Whether clients come no more.
    over: AtomicBool,
}

/// Tells a script to leave when dropped, so that its thread ends however this one does.
struct Prompter(Sender<Cue>);

impl Prompter {
    fn give(&self, cue: Cue) {
        // A script that is gone needs no cue.
        self.0.send(cue).ok();
    }
}

impl Drop for Prompter {
    fn drop(&mut self) {
        self.give(Cue::Quit);
    }
}

/// Sends the clients home when dropped.
struct LastCall<'a>(&'a AtomicBool);

impl Drop for LastCall<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Plays. What all clients saw, at the end.
pub(super) fn play<W: Write>(
    options: DemoOptions,
    stop: &Receiver<()>,
    scratch: &Scratch,
    report: &mut Report<W>,
) -> anyhow::Result<Count> {
    let house = House::default();
    thread::scope(|scope| {
        let last = [Count::default(); 2];
        let clock = Clock::start();
        let mut director = Director { house: &house, stop, stopped: false, clock, report, last };
        director.evening(scope, options, scratch.path())
    })?;
    Ok(house.echo.count().plus(house.postgres.count()))
}

struct Director<'a, 'out, W> {
    house: &'a House,
    stop: &'out Receiver<()>,
    stopped: bool,
    clock: Clock,
    report: &'out mut Report<W>,
    /// What each pool's clients had seen at its last line.
    last: [Count; 2],
}

impl<'a, W: Write> Director<'a, '_, W> {
    fn evening<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, 'a>,
        options: DemoOptions,
        dir: &Path,
    ) -> anyhow::Result<()> {
        self.report.plain("changeover demo: the real daemon, in front of servers that get killed")?;
        let (news, heard) = mpsc::channel();
        let house = self.house;
        let _last_call = LastCall(&house.over);
        let (postgres_cues, cues) = mpsc::channel();
        let postgres_cues = Prompter(postgres_cues);
        let (rising, risen) = mpsc::channel();
        let mut postgres_stage = None;
        if options.postgres {
            let stage = Stage::new(cues, news.clone(), self.clock, &house.postgres, Pool::Postgres);
            let home = dir.join("pg");
            postgres_stage = Some(spawn(scope, "postgres", move || postgres(stage, &home, &rising))?);
        } else {
            drop(rising);
        }
        let echo = EchoServers::start()?;
        let echo_backends = echo.addresses();
        self.tell_backends("echo servers", &echo_backends)?;
        let guests = self.await_postgres(&risen)?;
        if self.told_to_stop() {
            return Ok(());
        }

        let (echo_cues, cues) = mpsc::channel();
        let echo_cues = Prompter(echo_cues);
        let mut pools = vec![(Pool::Echo, echo_backends.as_slice())];
        pools.extend(guests.iter().map(|guests| (Pool::Postgres, guests.backends.as_slice())));
        let file = dir.join("changeover.toml");
        let observer = observer(self.clock, news.clone(), echo_cues.0.clone(), postgres_cues.0.clone());
        let proxy = Proxy::start(&file, &pools, observer)?;
        // What it found at its start is no news.
        heard.try_iter().for_each(drop);
        self.introduce(&file, &proxy, guests.as_ref(), options)?;

        let end = options.duration.map(|time| self.clock.now() + time);
        let clients = self.let_in(scope, &proxy, guests, &news)?;
        let stage = Stage::new(cues, news.clone(), self.clock, &house.echo, Pool::Echo);
        let echo_stage = spawn(scope, "echo-script", move || echo_script(stage, echo))?;
        echo_cues.give(Cue::Play(end));
        postgres_cues.give(Cue::Play(end));
        self.relate(&heard, end, &echo_stage)?;

        // Clients first, while the scripts restore what is down: whoever is inside still gets served.
        house.over.store(true, Ordering::SeqCst);
        echo_cues.give(Cue::Stop);
        postgres_cues.give(Cue::Stop);
        for client in clients {
            client.join().map_err(|_| anyhow!("a client's thread panicked"))?;
        }
        self.catch_up(&heard)?;
        drop(proxy);
        drop((echo_cues, postgres_cues));
        echo_stage.join().map_err(|_| anyhow!("the echo servers' thread panicked"))??;
        if let Some(stage) = postgres_stage {
            stage.join().map_err(|_| anyhow!("PostgreSQL's thread panicked"))?;
        }
        self.tell_served()
    }

    /// Tells how PostgreSQL gets on until it is there, or is known not to come.
    fn await_postgres(&mut self, risen: &Receiver<Rising>) -> anyhow::Result<Option<Guests>> {
        while !self.told_to_stop() {
            match risen.recv_timeout(LOOK) {
                Ok(Rising::Step(text)) => self.report.plain(&format!("  PostgreSQL    {text}"))?,
                Ok(Rising::Up(guests)) => {
                    self.tell_backends("PostgreSQL", &guests.backends)?;
                    return Ok(Some(guests));
                }
                Ok(Rising::Without(why)) => {
                    self.report.plain(&format!("  PostgreSQL    takes no part: {why}"))?;
                    return Ok(None);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
        Ok(None)
    }

    fn tell_backends(&mut self, what: &str, backends: &[(&str, SocketAddr)]) -> anyhow::Result<()> {
        let list: Vec<String> = backends.iter().map(|(name, address)| format!("{name} {address}")).collect();
        Ok(self.report.plain(&format!("  {what:<13} {}", list.join(", ")))?)
    }

    /// Where everything is, and how to try it by hand.
    fn introduce(
        &mut self,
        file: &Path,
        proxy: &Proxy,
        guests: Option<&Guests>,
        options: DemoOptions,
    ) -> anyhow::Result<()> {
        let (admin, echo) = (proxy.admin()?, proxy.address(Pool::Echo)?);
        let mut lines = vec![
            format!("  configuration {}", file.display()),
            format!("  admin         http://{admin}"),
            String::new(),
            "Try it by hand, in another terminal:".to_owned(),
            format!("  nc {} {}", echo.ip(), echo.port()),
        ];
        if let Some(guests) = guests {
            let (at, user, password) = (proxy.address(Pool::Postgres)?, cluster::USER, &guests.client.password);
            lines.push(format!("  PGPASSWORD={password} psql -h {} -p {} -U {user}", at.ip(), at.port()));
        }
        lines.push(format!("  curl http://{admin}/api/v1/pools"));
        lines.push(format!("  changeover status --admin http://{admin}"));
        lines.push(String::new());
        lines.push(match options.duration {
            Some(time) => {
                let time = spoken(time);
                format!("Clients come and go for {time}; Ctrl-C ends it sooner. Counts: since the pool's last line.")
            }
            None => "Clients come and go until Ctrl-C. Counts: since the pool's last line.".to_owned(),
        });
        self.report.plain(&lines.join("\n"))?;
        Ok(self.report.head()?)
    }

    /// Starts the clients.
    fn let_in<'scope>(
        &self,
        scope: &'scope Scope<'scope, 'a>,
        proxy: &Proxy,
        guests: Option<Guests>,
        news: &Sender<News>,
    ) -> anyhow::Result<Vec<ScopedJoinHandle<'scope, ()>>> {
        let house = self.house;
        let mut clients = Vec::new();
        for _ in 0..ECHO_CLIENTS {
            let load = Load { clock: self.clock, over: &house.over, tally: &house.echo };
            let (address, news) = (proxy.address(Pool::Echo)?, news.clone());
            clients.push(spawn(scope, "echo-client", move || load.echo(address, &news))?);
        }
        if let Some(guests) = guests {
            let load = Load { clock: self.clock, over: &house.over, tally: &house.postgres };
            let (address, news) = (proxy.address(Pool::Postgres)?, news.clone());
            clients.push(spawn(scope, "pg-client", move || load.query(address, &guests.client, &news))?);
        }
        Ok(clients)
    }

    /// Tells what happens until the time is up, somebody says stop, or the echo servers cannot go on.
    fn relate<T>(
        &mut self,
        heard: &Receiver<News>,
        end: Option<MonoTime>,
        echo_stage: &ScopedJoinHandle<'_, T>,
    ) -> anyhow::Result<()> {
        while !self.told_to_stop() && !echo_stage.is_finished() && end.is_none_or(|end| self.clock.now() < end) {
            match heard.recv_timeout(LOOK) {
                Ok(news) => self.tell(&news)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        Ok(())
    }

    /// Tells what is left to tell.
    fn catch_up(&mut self, heard: &Receiver<News>) -> anyhow::Result<()> {
        heard.try_iter().try_for_each(|news| self.tell(&news))
    }

    fn tell(&mut self, news: &News) -> anyhow::Result<()> {
        let [echo, postgres] = &mut self.last;
        let window = match news.pool {
            Pool::Echo => self.house.echo.window(echo),
            Pool::Postgres => self.house.postgres.window(postgres),
        };
        Ok(self.report.news(news, window)?)
    }

    fn tell_served(&mut self) -> anyhow::Result<()> {
        self.report.plain("")?;
        for (pool, tally) in [(Pool::Echo, &self.house.echo), (Pool::Postgres, &self.house.postgres)] {
            let names = tally.served_by();
            if pool == Pool::Echo || !names.is_empty() {
                self.report.served_by(pool, &names, tally.count().cut)?;
            }
        }
        Ok(())
    }

    /// Whether somebody has said stop, now or before.
    fn told_to_stop(&mut self) -> bool {
        self.stopped |= self.stop.try_recv().is_ok();
        self.stopped
    }
}

/// Passes what changes on to people, and to the script of its pool.
fn observer(
    clock: Clock,
    news: Sender<News>,
    echo: Sender<Cue>,
    postgres: Sender<Cue>,
) -> impl FnMut(&Transition) + Send + 'static {
    move |transition| {
        let (pool, script) = match &transition.pool {
            Some(name) if name.as_str() == Pool::Echo.name() => (Pool::Echo, &echo),
            Some(_) => (Pool::Postgres, &postgres),
            None => return,
        };
        // Of a failover, its end is news; the way there takes no time here.
        let on_its_way = [FailoverStatus::Pending, FailoverStatus::InProgress];
        if matches!(&transition.change, Change::PoolFailover { status, .. } if on_its_way.contains(status)) {
            return;
        }
        // Whoever is gone has no use for it.
        news.send(News { at: clock.now(), voice: Voice::Proxy, pool, text: transition.change.to_string() }).ok();
        script.send(Cue::Saw(transition.change.clone())).ok();
    }
}

/// The thread of the echo servers. They live until everybody has gone.
fn echo_script(mut stage: Stage<'_>, mut servers: EchoServers) -> anyhow::Result<()> {
    if stage.begin() {
        script::echo(&mut stage, &mut servers)?;
    }
    stage.until_quit();
    Ok(())
}

/// The thread of PostgreSQL: its servers may live no longer than the thread that started them.
fn postgres(mut stage: Stage<'_>, home: &Path, rising: &Sender<Rising>) {
    let step = |text: String| rising.send(Rising::Step(text)).is_ok() && !stage.is_over();
    let mut cluster = match Toolbox::open(home).and_then(|tools| Cluster::start(tools, step)) {
        Ok(cluster) => cluster,
        Err(error) => {
            // Who does not listen is about to end.
            rising.send(Rising::Without(format!("{error:#}"))).ok();
            return;
        }
    };
    rising.send(Rising::Up(Guests { client: cluster.client(), backends: cluster.addresses() })).ok();
    if stage.begin()
        && let Err(error) = script::postgres(&mut stage, &mut cluster)
    {
        stage.say(format!("PostgreSQL is left as it is: {error:#}"));
    }
    stage.until_quit();
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> anyhow::Result<ScopedJoinHandle<'scope, T>> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn_scoped(scope, work).context("a thread cannot be started")
}
