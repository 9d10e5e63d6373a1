//! A stretch of network between devices and the server, with what MQTT at QoS 1 may do on it: it can hold back what
//! the server says, so that an operation is on the server's disk and its author does not know; and it delivers every
//! eighth PUBLISH of a device twice.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    held: watch::Sender<bool>,
}

impl Proxy {
    /// Forwards every connection to `upstream`, also after that was away.
    pub(crate) async fn start(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, watching) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, upstream.clone(), watching.clone()));
            }
        });
        Self { address, held }
    }

    /// Holds back what the server says, or lets it through again.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }
}

/// The packet type of a PUBLISH, the upper half of its first byte.
const PUBLISH: u8 = 3;

/// One MQTT packet: a byte, the remaining length in up to four bytes of seven bits each, and the rest.
async fn read_packet(from: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut packet = vec![from.read_u8().await?];
    let mut length = 0usize;
    for shift in [0, 7, 14, 21] {
        let byte = from.read_u8().await?;
        packet.push(byte);
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let header = packet.len();
    packet.resize(header + length, 0);
    from.read_exact(&mut packet[header..]).await?;
    Ok(packet)
}

/// Until either side ends; what was held back when the server died is lost.
async fn forward(client: TcpStream, upstream: String, mut held: watch::Receiver<bool>) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        for number in 1u32.. {
            let packet = read_packet(&mut from_client).await?;
            to_server.write_all(&packet).await?;
            if packet[0] >> 4 == PUBLISH && number.is_multiple_of(8) {
                to_server.write_all(&packet).await?;
            }
        }
        Ok(())
    };
    let down = async {
        let mut bytes = [0; 4096];
        loop {
            let length = from_server.read(&mut bytes).await?;
            if length == 0 {
                return Ok(());
            }
            let was_held = *held.borrow();
            if was_held && held.wait_for(|held| !held).await.is_ok() {
                // The server was killed meanwhile: these bytes never arrived.
                return Ok(());
            }
            to_client.write_all(&bytes[..length]).await?;
        }
    };
    let ended: std::io::Result<()> = tokio::select! { ended = up => ended, ended = down => ended };
    drop(ended);
}
