//! Serve: the data plane alone, in front of one origin, as the benchmark wants it.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Context, Result};
use crate::proto::route::Route;
use crate::proxy::certs::{self, Certs};
use crate::proxy::files::root::Root;
use crate::proxy::limits::Limits;
use crate::proxy::table::{Endpoint, EndpointId, Standing, Table, Upstream};
use crate::proxy::{Settings, start};

/// What one run serves.
#[derive(Debug)]
pub struct Plan {
    pub workers: usize,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub origin: SocketAddr,
    /// A folder of files and the plain and TLS ports to serve it on.
    pub files: Option<(PathBuf, SocketAddr, SocketAddr)>,
    /// PEM chain and key for every name.
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
    /// How long an idle client connection may stay; the other limits are those that are shipped.
    pub idle: std::time::Duration,
}

/// Serves `localhost` until the process is ended.
///
/// # Errors
/// A line for people, when it cannot start.
pub fn serve(plan: Plan) -> Result<std::convert::Infallible, String> {
    run(plan).map_err(|e| format!("{e:?}"))
}

fn run(plan: Plan) -> Result<std::convert::Infallible> {
    let bind = |at: SocketAddr| TcpListener::bind(at).map(Arc::new).context(|| format!("listen on {at}"));
    let (mut http, mut https, mut assets) = (vec![bind(plan.http)?], vec![bind(plan.https)?], vec![]);
    if let Some((folder, plain, secure)) = &plan.files {
        http.push(bind(*plain)?);
        https.push(bind(*secure)?);
        let root = Root::open(folder, Path::new(".")).context(|| format!("open {}", folder.display()))?;
        assets.extend(root);
    }
    let settings = Settings {
        http,
        https,
        workers: plan.workers,
        https_port: Some(plan.https.port()),
        trusted_proxies: vec![],
        limits: Limits { idle: plan.idle, requests_per_conn: u32::MAX, ..Limits::DEFAULT },
        access: None,
    };
    let (proxy, notices) = start(settings)?;
    let key = certs::load(&plan.chain, &plan.key)?;
    let endpoint = Endpoint { id: EndpointId(1), addr: plan.origin };
    let (name, endpoints) = ("origin".into(), vec![endpoint]);
    let upstream = Upstream { name, endpoints, standing: Standing::Awake, body_limit: u64::MAX, assets };
    let route = Route::parse("localhost").expect("a literal that is a route");
    let certs = Arc::new(Certs { by_name: HashMap::new(), default: key });
    proxy.publish(Table { entries: vec![(route, 0)], upstreams: vec![upstream], certs, challenges: Arc::default() });
    loop {
        // The channel ends with the proxy, which is ours.
        let _ = notices.recv();
    }
}
