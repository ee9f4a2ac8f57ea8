//! Many connections, each of which asks again as soon as it was answered: through a proxy that paces, nearly all of them
//! wait in its line.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::caller::{Asked, Caller};

/// One address has about 28,000 ports to connect from.
const PER_ADDRESS: usize = 25_000;
/// New connections in a row before the other side is given time to accept them.
const AT_ONCE: usize = 500;
const PAUSE: Duration = Duration::from_millis(20);

/// Many waiting requests.
#[derive(Debug, Args)]
pub(crate) struct Hold {
    /// Where to.
    #[arg(long)]
    target: SocketAddr,
    /// So many requests at once.
    #[arg(long)]
    connections: usize,
    /// How long to let everything settle when all have been sent, before the figures begin.
    #[arg(long, default_value_t = 1.0)]
    settle: f64,
    /// How long the figures are taken.
    #[arg(long)]
    seconds: f64,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Debug, Default)]
struct Counts {
    answered: Cell<u64>,
    failed: Cell<u64>,
}

impl Hold {
    /// Prints `begun` when the figures begin, and the figures when they end.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let counts = Rc::new(Counts::default());
        let asked = Rc::new(self.asked);
        let mut crowd = JoinSet::new();
        for number in 0..self.connections {
            let mut caller = Caller::new(self.target, Some(source(number)));
            caller.connect().await?;
            crowd.spawn_local(call_for_ever(caller, Rc::clone(&asked), Rc::clone(&counts)));
            if number % AT_ONCE == AT_ONCE - 1 {
                sleep(PAUSE).await;
            }
        }
        sleep(Duration::from_secs_f64(self.settle)).await;
        println!("begun");
        let before = counts.answered.get();
        sleep(Duration::from_secs_f64(self.seconds)).await;
        let answered = counts.answered.get() - before;
        println!("{}", serde_json::json!({"answered": answered, "failed": counts.failed.get()}));
        Ok(())
    }
}

async fn call_for_ever(mut caller: Caller, asked: Rc<Asked>, counts: Rc<Counts>) -> anyhow::Result<()> {
    loop {
        let answer = caller.send(asked.request()?).await;
        let ok = answer.is_ok_and(|answer| answer.status.is_success());
        let count = if ok { &counts.answered } else { &counts.failed };
        count.set(count.get() + 1);
        if !ok {
            // A proxy that is gone is not asked in a tight loop.
            sleep(PAUSE).await;
        }
    }
}

/// The loopback network is large enough.
fn source(number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1 + (number / PER_ADDRESS).min(200) as u8))
}
