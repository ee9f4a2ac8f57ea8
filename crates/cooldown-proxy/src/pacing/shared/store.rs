//! The Redis or Valkey where instances meet: how it is reached, and what it is asked.

use std::sync::Arc;
use std::time::Duration;

use cooldown_pacer::share::{Answer, RENEW, Renewal};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, ProtocolVersion,
    PushInfo, RedisConnectionInfo, RedisFuture, RedisResult, Script, TlsMode, Value,
};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::message::Message;
use super::{Identity, Shared};
use crate::config::model::{self, StoreForm};

/// A store that takes longer to answer does not answer.
const LONGEST_ANSWER: Duration = Duration::from_secs(1);
/// So long may it take to be there, with all questions that come before the first one of ours.
const LONGEST_START: Duration = Duration::from_secs(3);

/// How to reach the store.
#[derive(Debug, Clone)]
pub(super) struct Store {
    form: StoreForm,
    tls: bool,
    nodes: Vec<ConnectionInfo>,
    /// How the nodes are spoken to that have the data.
    settings: RedisConnectionInfo,
    /// The channel of what is told, the key that remembers it, and that of who is there.
    channel: String,
    told: String,
    present: String,
    scripts: Arc<Scripts>,
}

#[derive(Debug)]
struct Scripts {
    renew: Script,
    tell: Script,
    recall: Script,
    present: Script,
}

/// A connection, as many questions as are asked at a time. Clones are the same connection.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Many(ClusterConnection),
}

/// A connection that was just made.
pub(super) struct Connected {
    pub connection: Connection,
    /// What the store says by itself.
    pub pushes: UnboundedReceiver<PushInfo>,
    /// What holds of what was told.
    pub told: Vec<Message>,
}

/// Why the store does not answer, for a person.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    #[error("it does not answer")]
    Silent,
    #[error("its answer cannot be read")]
    Nonsense,
}

impl Store {
    pub(super) fn new(shared: &Shared) -> Self {
        let model::Store { form, tls, nodes, user, password, database } = &shared.store;
        let mut settings = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
        settings = settings.set_db(i64::from(*database));
        settings = user.iter().fold(settings, |settings, user| settings.set_username(user.expose()));
        settings = password.iter().fold(settings, |settings, password| settings.set_password(password.expose()));
        // Sentinels are asked for an address only; what the URL says of credentials is for the one that has the data.
        let of_node =
            if matches!(form, StoreForm::Sentinel(_)) { RedisConnectionInfo::default() } else { settings.clone() };
        let nodes = nodes.iter().filter_map(|(host, port)| node(host, *port, *tls, &of_node));
        Self {
            form: form.clone(),
            tls: *tls,
            nodes: nodes.collect(),
            settings,
            channel: format!("{}:told", shared.prefix),
            told: format!("{}:{{told}}", shared.prefix),
            present: format!("{}:{{present}}", shared.prefix),
            scripts: Arc::new(Scripts {
                renew: Script::new(RENEW),
                tell: Script::new(include_str!("tell.lua")),
                recall: Script::new(include_str!("recall.lua")),
                present: Script::new(include_str!("present.lua")),
            }),
        }
    }

    /// Connects, listens, and reads what was told. What this instance, which is `own`, told itself, it knows.
    pub(super) async fn connect(&self, own: u64) -> Result<Connected, StoreError> {
        let connecting = async {
            let (told, pushes) = mpsc::unbounded_channel();
            let mut connection = match &self.form {
                StoreForm::Single => Connection::One(self.one(self.client()?, told).await?),
                StoreForm::Sentinel(name) => Connection::One(self.one(self.master(name).await?, told).await?),
                StoreForm::Cluster => Connection::Many(self.cluster(told).await?),
            };
            connection.subscribe(&self.channel).await?;
            let told = self.recall(&mut connection, own).await?;
            Ok(Connected { connection, pushes, told })
        };
        tokio::time::timeout(LONGEST_START, connecting).await.map_err(|_| StoreError::Silent)?
    }

    fn client(&self) -> RedisResult<Client> {
        // There is exactly one node.
        Client::open(self.nodes.first().cloned().ok_or((redis::ErrorKind::InvalidClientConfig, "no node"))?)
    }

    async fn one(&self, client: Client, told: mpsc::UnboundedSender<PushInfo>) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LONGEST_ANSWER))
            .set_response_timeout(Some(LONGEST_ANSWER))
            .set_push_sender(told);
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    async fn master(&self, name: &str) -> RedisResult<Client> {
        let mut of_master = SentinelNodeConnectionInfo::default().set_redis_connection_info(self.settings.clone());
        of_master = of_master.set_tcp_settings(tcp());
        if self.tls {
            of_master = of_master.set_tls_mode(TlsMode::Secure);
        }
        let nodes = self.nodes.clone();
        SentinelClient::build(nodes, name, Some(of_master), SentinelServerType::Master)?.async_get_client().await
    }

    async fn cluster(&self, told: mpsc::UnboundedSender<PushInfo>) -> RedisResult<ClusterConnection> {
        let cluster = ClusterClient::builder(self.nodes.clone())
            .use_protocol(ProtocolVersion::RESP3)
            .connection_timeout(LONGEST_ANSWER)
            .response_timeout(LONGEST_ANSWER)
            .tcp_settings(tcp())
            .retries(1)
            .push_sender(told);
        cluster.build()?.get_async_connection().await
    }

    /// Tells what an instance holds of one limit.
    pub(super) async fn renew(
        &self,
        mut connection: Connection,
        name: String,
        identity: &Identity,
        number: u64,
        renewal: &Renewal,
    ) -> Result<Answer, StoreError> {
        let mut call = self.scripts.renew.key(name);
        call.arg(&identity.name).arg(format!("{:016x}.{number}", identity.boot));
        call.arg(&renewal.arguments()[..]);
        let reply: Vec<i64> = call.invoke_async(&mut connection).await?;
        Answer::read(&reply).map_err(|_| StoreError::Nonsense)
    }

    /// Tells all instances something, and remembers it for those that come.
    pub(super) async fn tell(&self, mut connection: Connection, message: &Message) -> Result<(), StoreError> {
        let mut call = self.scripts.tell.key(&self.told);
        call.arg(&self.channel).arg(message.about()).arg(message.text());
        call.arg(message.lasting().as_millis() as u64).arg(u8::from(message.yields()));
        Ok(call.invoke_async::<()>(&mut connection).await?)
    }

    /// Says that an instance is there for so long, or leaves if that is nothing. How many there are.
    pub(super) async fn present(
        &self,
        mut connection: Connection,
        identity: &Identity,
        lasting: Duration,
    ) -> Result<u64, StoreError> {
        let (before, after) = Message::around_company();
        let mut call = self.scripts.present.key(&self.present);
        call.arg(&self.channel).arg(&identity.name).arg(lasting.as_millis() as u64).arg(before).arg(after);
        Ok(call.invoke_async(&mut connection).await?)
    }

    async fn recall(&self, connection: &mut Connection, own: u64) -> RedisResult<Vec<Message>> {
        let call = self.scripts.recall.key(&self.told);
        let found: Vec<(Vec<u8>, u64, u64)> = call.invoke_async(connection).await?;
        let message = |(text, since, left): (Vec<u8>, u64, u64)| {
            Some(Message::read(&text, own)?.later(Duration::from_millis(since), Duration::from_millis(left)))
        };
        Ok(found.into_iter().filter_map(message).collect())
    }

    /// Whether a connection looks for other nodes itself when some do not answer.
    pub(super) fn heals_itself(&self) -> bool {
        self.form == StoreForm::Cluster
    }
}

fn node(host: &str, port: u16, tls: bool, settings: &RedisConnectionInfo) -> Option<ConnectionInfo> {
    let address = match tls {
        true => ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    let node = address.into_connection_info().ok()?;
    Some(node.set_redis_settings(settings.clone()).set_tcp_settings(tcp()))
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

impl Connection {
    async fn subscribe(&mut self, channel: &str) -> RedisResult<()> {
        match self {
            Self::One(connection) => connection.subscribe(channel).await,
            Self::Many(connection) => connection.subscribe(channel).await,
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(command),
            Self::Many(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Many(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Many(connection) => connection.get_db(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Secret;
    use crate::config::model::Store as Place;

    fn store(tls: bool, port: u16) -> Store {
        let nodes = vec![("127.0.0.1".to_owned(), port)];
        let password = Some(Secret::new("hunter2".to_owned()));
        let place = Place { form: StoreForm::Single, tls, nodes, user: None, password, database: 0 };
        let every = Duration::from_millis(250);
        Store::new(&Shared { store: place, prefix: "test".to_owned(), every, instance: None })
    }

    #[tokio::test]
    async fn whatever_answers_in_place_of_a_store_is_an_error_that_tells_no_secret() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
        });
        for tls in [false, true] {
            let why = store(tls, port).connect(7).await.err().expect("this is no store");
            assert!(!why.to_string().contains("hunter2"), "{why}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        assert!(store(false, port).connect(7).await.is_err());
    }
}
