//! A network that answers in the server's place.

use rcgen::{CertificateParams, KeyPair};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

#[derive(Clone, Copy)]
pub(crate) enum Speaks {
    /// It answers whatever comes with this page.
    Page(&'static str),
    /// The same behind a certificate of its own.
    Tls(&'static str),
}

pub(crate) struct Portal {
    pub(crate) port: u16,
    /// Everything that it was told.
    pub(crate) heard: Arc<Mutex<Vec<u8>>>,
}

impl Portal {
    pub(crate) async fn open(speaks: Speaks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let portal = Self {
            port: listener.local_addr().unwrap().port(),
            heard: Arc::default(),
        };
        let heard = portal.heard.clone();
        let acceptor = TlsAcceptor::from(own_certificate());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (heard, acceptor) = (heard.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match speaks {
                        Speaks::Page(page) => answer(stream, page, &heard).await,
                        Speaks::Tls(page) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                answer(stream, page, &heard).await;
                            }
                        }
                    }
                });
            }
        });
        portal
    }

    pub(crate) fn has_heard(&self, words: &[u8]) -> bool {
        self.heard
            .lock()
            .unwrap()
            .windows(words.len())
            .any(|heard| heard == words)
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, page: &str, heard: &Mutex<Vec<u8>>) {
    let mut request = vec![0; 4_096];
    let count = stream.read(&mut request).await.unwrap_or(0);
    heard.lock().unwrap().extend_from_slice(&request[..count]);
    let _ = stream.write_all(page.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn own_certificate() -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["login.example".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Arc::new(
        builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap(),
    )
}
