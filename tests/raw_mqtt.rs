//! A client of MQTT 5 that says what a test tells it to, and hides nothing of what it hears.

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::{QoS, v5};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct RawClient<S = TcpStream> {
    stream: S,
    read: BytesMut,
}

impl RawClient {
    /// Whatever the answer to the CONNECT is; the client id `""` is the server's to choose.
    pub(crate) async fn connect(
        address: &str,
        client_id: &str,
        login: Option<(&str, &str)>,
    ) -> (Self, v5::ConnectReturnCode) {
        RawClient::connect_on(TcpStream::connect(address).await.unwrap(), client_id, login).await
    }

    /// The device of a credentials file, as itself or with a suffix.
    pub(crate) async fn device(address: &str, credentials: &Path, suffix: &str) -> Self {
        let file: Value = serde_json::from_slice(&std::fs::read(credentials).unwrap()).unwrap();
        let (device, secret) = (file["device"].as_str().unwrap(), file["secret"].as_str().unwrap());
        let login = Some((device, secret));
        let (client, code) = Self::connect(address, &format!("{device}{suffix}"), login).await;
        assert_eq!(code, v5::ConnectReturnCode::Success);
        client
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> RawClient<S> {
    /// Like [`RawClient::connect`], on a stream that is there already.
    pub(crate) async fn connect_on(
        stream: S,
        client_id: &str,
        login: Option<(&str, &str)>,
    ) -> (Self, v5::ConnectReturnCode) {
        let mut client = Self {
            stream,
            read: BytesMut::new(),
        };
        let connect = v5::Connect {
            keep_alive: 30,
            client_id: client_id.to_owned(),
            clean_start: true,
            properties: None,
        };
        let login = login.map(|(user, password)| v5::Login::new(user, password));
        client.send(v5::Packet::Connect(connect, None, login)).await;
        match client.receive().await {
            Some(v5::Packet::ConnAck(answer)) => (client, answer.code),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, packet: v5::Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next packet; `None` at the end of the stream.
    pub(crate) async fn receive(&mut self) -> Option<v5::Packet> {
        tokio::time::timeout(PATIENCE, async {
            loop {
                match v5::Packet::read(&mut self.read, None) {
                    Ok(packet) => return Some(packet),
                    Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                if self.stream.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        })
        .await
        .expect("the broker says something")
    }

    /// Subscribes with QoS 1; gives the reason code. What comes before the answer is passed over.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> v5::SubscribeReasonCode {
        let subscribe = v5::Subscribe {
            pkid: 1,
            ..v5::Subscribe::new(v5::Filter::new(filter, QoS::AtLeastOnce), None)
        };
        self.send(v5::Packet::Subscribe(subscribe)).await;
        loop {
            match self.receive().await {
                Some(v5::Packet::SubAck(answer)) => return answer.return_codes[0],
                Some(v5::Packet::Publish(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Publishes with QoS 1; gives the reason code. What comes before the answer is passed over.
    pub(crate) async fn publish(
        &mut self,
        topic: &str,
        payload: impl Into<bytes::Bytes>,
    ) -> v5::PubAckReason {
        let publish = v5::Publish {
            pkid: 2,
            ..v5::Publish::new(topic, QoS::AtLeastOnce, payload, None)
        };
        self.send(v5::Packet::Publish(publish)).await;
        loop {
            match self.receive().await {
                Some(v5::Packet::PubAck(answer)) => return answer.reason,
                Some(v5::Packet::Publish(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
