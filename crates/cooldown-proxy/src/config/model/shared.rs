//! Shared limits: what is meant by `shared`.

use std::fmt;
use std::time::Duration;

use crate::config::Secret;

/// `shared`: one limit for many instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// Where the instances meet.
    pub store: Store,
    /// What all keys and channels there begin with; visible ASCII without braces.
    pub prefix: String,
    /// How often an instance says what it holds of a limit, if nothing changes.
    pub every: Duration,
    /// The name of this instance, which no other one that runs has. Where it is `None`: the host's name and the port.
    pub instance: Option<String>,
}

/// A Redis or Valkey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// How it is made of its nodes.
    pub form: StoreForm,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Host and port of each node that is known, at least one; an IPv6 address without brackets.
    pub nodes: Vec<(String, u16)>,
    /// The user, where one is named.
    pub user: Option<Secret>,
    /// The password.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: u8,
}

/// What the nodes of a store are to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreForm {
    /// There is one.
    Single,
    /// They are a Cluster.
    Cluster,
    /// They are Sentinels, which know the master of this name.
    Sentinel(String),
}

/// `redis://127.0.0.1:6379`, without what is secret.
impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.tls { "s" } else { "" };
        let form = match self.form {
            StoreForm::Single => "",
            StoreForm::Cluster => "+cluster",
            StoreForm::Sentinel(_) => "+sentinel",
        };
        write!(f, "redis{tls}{form}://")?;
        for (nth, (host, port)) in self.nodes.iter().enumerate() {
            let comma = if nth > 0 { "," } else { "" };
            match host.contains(':') {
                true => write!(f, "{comma}[{host}]:{port}")?,
                false => write!(f, "{comma}{host}:{port}")?,
            }
        }
        if let StoreForm::Sentinel(name) = &self.form {
            write!(f, "/{name}")?;
        }
        Ok(())
    }
}
