//! What is asked of the daemon: each second, on order, and at once when its live events say that something has happened. Asking is
//! done on a thread of its own, and so is listening to the events. Where there are none, as on a daemon that has all the
//! subscribers it takes, the second is what is left.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::model::MonoTime;
use crate::sys::Clock;

use super::super::client::Client;
use super::super::exit::CliError;
use super::super::explain;
use super::super::follow::{AGAIN_MAX, AGAIN_MIN, Stream};
use super::super::orders::{backend_path, pool_path};
use super::screen::{Order, Question, View};

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);
/// From one look to the next if much happens.
const EVERY_AT_LEAST: Duration = Duration::from_millis(100);
/// What is listened to.
const STREAM: &str = "/api/v1/events/stream";
/// The longest that one answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Sessions that are shown at most.
const SESSIONS_MAX: usize = 1_000;
/// Events that are shown at most.
const EVENTS_MAX: usize = 200;

/// What there is to show.
#[derive(Debug)]
pub(super) enum News {
    /// How the daemon stands.
    Seen(Box<Seen>),
    /// It does not answer, or not to us.
    Lost {
        /// Why.
        why: String,
        /// When that was found out.
        at: String,
    },
    /// A page on a pool.
    Explained(String),
    /// What came of an order.
    Told(String),
}

/// How the daemon stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// In a word.
    pub(super) state: String,
    /// When, on the calendar.
    pub(super) at: String,
    /// The answer of `GET /pools`.
    pub(super) pools: Value,
    /// That of `GET /sessions`, if they are looked at.
    pub(super) sessions: Value,
    /// That of `GET /events`, if they are looked at.
    pub(super) events: Value,
}

/// What has the daemon looked at.
#[derive(Debug)]
enum Wake {
    Asked(Question),
    /// An event.
    Happened,
}

/// The other end of the threads. They end after this is dropped, with what they find out next.
#[derive(Debug)]
pub(super) struct Feed {
    questions: Sender<Wake>,
    news: Receiver<News>,
}

impl Feed {
    /// Begins to ask, and to listen.
    pub(super) fn start(client: Client, clock: Clock) -> io::Result<Self> {
        Self::start_every(client, clock, EVERY)
    }

    fn start_every(client: Client, clock: Clock, every: Duration) -> io::Result<Self> {
        let (questions, asked) = mpsc::channel();
        let (tell, news) = mpsc::channel();
        let client = client.within(PATIENCE);
        let (listener, wake) = (client.clone(), questions.clone());
        let asker = Asker { client, clock, every, view: View::default(), tell };
        thread::Builder::new().name("feed".to_owned()).spawn(move || asker.run(&asked))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("events".to_owned()).spawn(move || runtime.block_on(listen(&listener, &wake)))?;
        Ok(Self { questions, news })
    }

    pub(super) fn news(&self) -> Option<News> {
        self.news.try_recv().ok()
    }

    pub(super) fn ask(&self, question: Question) {
        // The thread ends with this and not before, but for a panic, after which nothing more is shown.
        let _gone = self.questions.send(Wake::Asked(question));
    }
}

/// Says each time that something has happened, until nobody wants to know. A stream that is lost or refused is tried again.
async fn listen(client: &Client, wake: &Sender<Wake>) {
    let mut pause = AGAIN_MIN;
    loop {
        // What was missed meanwhile is seen by looking, so that it begins with now.
        if let Ok(mut stream) = Stream::open(client, STREAM, None).await {
            pause = AGAIN_MIN;
            while let Ok(told) = stream.next().await {
                if !told.is_empty() && wake.send(Wake::Happened).is_err() {
                    return;
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(AGAIN_MAX);
    }
}

struct Asker {
    client: Client,
    clock: Clock,
    every: Duration,
    view: View,
    tell: Sender<News>,
}

impl Asker {
    fn run(mut self, wakes: &Receiver<Wake>) {
        let mut due = MonoTime::ZERO;
        let mut looked = MonoTime::ZERO;
        loop {
            let now = self.clock.now();
            if now >= due {
                (looked, due) = (now, now + self.every);
                let news = self.look().unwrap_or_else(|error| News::Lost { why: error.to_string(), at: self.time() });
                if self.tell.send(news).is_err() {
                    return;
                }
            }
            match wakes.recv_timeout(due.since(self.clock.now())) {
                Ok(Wake::Asked(question)) => {
                    if let Some(news) = self.answer(question)
                        && self.tell.send(news).is_err()
                    {
                        return;
                    }
                    // Whatever was asked: how it stands now is shown at once.
                    due = MonoTime::ZERO;
                }
                Ok(Wake::Happened) => due = due.min(looked + EVERY_AT_LEAST),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn time(&self) -> String {
        let stamp = self.clock.timestamp(self.clock.now());
        stamp.get(11..19).unwrap_or_default().to_owned()
    }

    fn look(&self) -> Result<News, CliError> {
        let ready = self.client.get("/readyz")?;
        let state = ready.body["code"].as_str().unwrap_or("ready").to_owned();
        let pools = self.client.get_ok("/api/v1/pools")?;
        let mut seen = Seen { state, at: self.time(), pools, ..Seen::default() };
        match self.view {
            View::Pools | View::Backends => {}
            View::Sessions => seen.sessions = self.client.get_ok(&format!("/api/v1/sessions?limit={SESSIONS_MAX}"))?,
            View::Events => seen.events = self.client.get_ok(&format!("/api/v1/events?limit={EVENTS_MAX}"))?,
        }
        Ok(News::Seen(Box::new(seen)))
    }

    fn answer(&mut self, question: Question) -> Option<News> {
        match question {
            Question::Look(view) => {
                self.view = view;
                None
            }
            Question::Explain(pool) => {
                let answer = self.client.get_ok(&format!("{}/explain", pool_path(&pool)));
                Some(
                    answer.map_or_else(
                        |error| News::Told(error.to_string()),
                        |page| News::Explained(explain::page(&page)),
                    ),
                )
            }
            Question::Order(order) => {
                let (path, body) = request(&order);
                let done = self.client.post_ok(&path, &body);
                Some(News::Told(done.map_or_else(|error| error.to_string(), |_| format!("done: {order}"))))
            }
        }
    }
}

/// What an order is for the API.
fn request(order: &Order) -> (String, Value) {
    match order {
        Order::Drain(pool, backend) => (format!("{}/drain", backend_path(pool, backend)), json!({})),
        Order::Ready(pool, backend) => (format!("{}/ready", backend_path(pool, backend)), json!({})),
        Order::Failover(pool, to) => (format!("{}/failover", pool_path(pool)), json!({ "to": to })),
        Order::Pause(pool) => (format!("{}/pause", pool_path(pool)), json!({})),
        Order::Resume(pool) => (format!("{}/resume", pool_path(pool)), json!({})),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use super::super::super::client::Client;
    use super::{Feed, News};
    use crate::sys::Clock;

    /// The longest that a test waits for what must come.
    const DEADLINE: Duration = Duration::from_secs(30);
    /// Longer than any test takes.
    const NEVER: Duration = Duration::from_secs(3600);

    /// Answers one request, of a daemon without pools; a subscriber gets an event each time that `happens` says so.
    fn serve(mut stream: TcpStream, subscribed: &Sender<()>, happens: &Mutex<Receiver<()>>) {
        let mut head = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        let first = head.next().unwrap_or_default();
        let _rest: Vec<String> = head.take_while(|line| !line.is_empty()).collect();
        if !first.contains("/events/stream") {
            let body = "{\"pools\":[]}";
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok();
            return;
        }
        write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n: events\n\n").ok();
        subscribed.send(()).ok();
        while happens.lock().unwrap().recv().is_ok() {
            write!(stream, "id: 1\nevent: pool.down\ndata: {{}}\n\n").ok();
        }
    }

    #[test]
    fn what_happens_is_looked_at_before_the_next_look_is_due() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let ((subscribed, is_subscribed), (happen, happens)) = (channel(), channel());
        let happens = Arc::new(Mutex::new(happens));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (subscribed, happens) = (subscribed.clone(), Arc::clone(&happens));
                std::thread::spawn(move || serve(stream, &subscribed, &happens));
            }
        });
        let client = Client::new(&address, None, None).unwrap();
        let feed = Feed::start_every(client, Clock::start(), NEVER).unwrap();
        let look = || assert!(matches!(feed.news.recv_timeout(DEADLINE), Ok(News::Seen(_))));
        look();
        is_subscribed.recv_timeout(DEADLINE).unwrap();
        for _ in 0..5 {
            happen.send(()).unwrap();
            look();
        }
    }
}
