//! A network between a device and its server that can be made bad.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

/// What the system may hold of what a device sent: little, so that the rest stays with the device.
const RECEIVE_BYTES: u32 = 4_096;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    begun: Arc<AtomicUsize>,
    /// Connections with lower numbers are dead: what is sent on them goes nowhere, in both directions.
    dead: watch::Sender<usize>,
    is_stalled: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) fn start(target: u16) -> Self {
        Self::start_at(0, target)
    }

    pub(crate) fn start_at(port: u16, target: u16) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.set_recv_buffer_size(RECEIVE_BYTES).unwrap();
        socket.bind(([127, 0, 0, 1], port).into()).unwrap();
        let listener = socket.listen(16).unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            begun: Arc::default(),
            dead: watch::channel(0).0,
            is_stalled: watch::channel(false).0,
        };
        let (begun, dead, stalled) = (
            proxy.begun.clone(),
            proxy.dead.subscribe(),
            proxy.is_stalled.subscribe(),
        );
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let number = begun.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(near, target, number, dead.clone(), stalled.clone()));
            }
        });
        proxy
    }

    /// How many connections were made through it.
    pub(crate) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// All connections that stand are dead without a word; further ones work.
    pub(crate) fn roam(&self) {
        self.dead.send_replace(self.begun());
    }

    /// What a device sends stays with it, or goes on.
    pub(crate) fn stall(&self, is_stalled: bool) {
        self.is_stalled.send_replace(is_stalled);
    }
}

async fn carry(
    mut near: TcpStream,
    target: u16,
    number: usize,
    dead: watch::Receiver<usize>,
    mut stalled: watch::Receiver<bool>,
) {
    let mut far = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
    let (mut up, mut down) = ([0; 1_024], [0; 1_024]);
    loop {
        let is_stalled = *stalled.borrow_and_update();
        let carried = tokio::select! {
            read = near.read(&mut up), if !is_stalled => match read {
                Ok(1..) if *dead.borrow() > number => Ok(()),
                Ok(count @ 1..) => far.write_all(&up[..count]).await,
                _ => return,
            },
            read = far.read(&mut down) => match read {
                Ok(1..) if *dead.borrow() > number => Ok(()),
                Ok(count @ 1..) => near.write_all(&down[..count]).await,
                _ => return,
            },
            changed = stalled.changed() => match changed {
                Ok(()) => Ok(()),
                Err(_) => return,
            },
        };
        if carried.is_err() {
            return;
        }
    }
}
