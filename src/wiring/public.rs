//! How devices and browsers elsewhere reach this server, as it follows from where it listens.

use std::net::SocketAddr;

/// Where a server with the embedded broker listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listening {
    pub(super) https: Option<SocketAddr>,
    pub(super) mqtt: SocketAddr,
    pub(super) mqtts: Option<SocketAddr>,
}

impl Listening {
    /// What stands in the credentials of devices, best first.
    ///
    /// MQTT in the clear is offered only where MQTT over TLS is off: a device would fall back to it for whoever cuts the
    /// other. And with any TLS not at a loopback address, where on the device itself another program could listen.
    pub(super) fn mqtt_addresses(self) -> Vec<String> {
        let Self { https, mqtt, mqtts } = self;
        let over_tls = mqtts.map(|mqtts| format!("mqtts://{}", reached(mqtts)));
        let over_websocket = https.map(|https| format!("wss://{}/mqtt", reached(https)));
        let is_clear = mqtts.is_none() && (https.is_none() || !mqtt.ip().is_loopback());
        let clear = is_clear.then(|| format!("mqtt://{}", reached(mqtt)));
        [over_tls, over_websocket, clear].into_iter().flatten().collect()
    }
}

/// The dashboard over TLS.
pub(super) fn dashboard(https: SocketAddr) -> String {
    format!("https://{}/", reached(https))
}

/// Host and port by which a listener is reached: the name of this machine where it listens on all addresses.
fn reached(listens: SocketAddr) -> String {
    if listens.ip().is_unspecified() {
        // As it stands in the certificate.
        return format!("{}:{}", crate::tls::host_name(), listens.port());
    }
    listens.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_of_tls_and_of_the_clear_where_nothing_else_is_left() {
        let host = crate::tls::host_name();
        let table = [
            (
                ("[::]:8443", "127.0.0.1:1883", "[::]:8883"),
                vec![format!("mqtts://{host}:8883"), format!("wss://{host}:8443/mqtt")],
            ),
            (
                ("", "0.0.0.0:1883", "192.0.2.7:8883"),
                vec!["mqtts://192.0.2.7:8883".to_owned()],
            ),
            (
                ("127.0.0.1:8443", "127.0.0.1:1883", ""),
                vec!["wss://127.0.0.1:8443/mqtt".to_owned()],
            ),
            (
                ("[::]:8443", "0.0.0.0:1883", ""),
                vec![format!("wss://{host}:8443/mqtt"), format!("mqtt://{host}:1883")],
            ),
            (("", "[::1]:1883", ""), vec!["mqtt://[::1]:1883".to_owned()]),
            (("", "0.0.0.0:1883", ""), vec![format!("mqtt://{host}:1883")]),
        ];
        for ((https, mqtt, mqtts), expected) in table {
            let listening = Listening {
                https: https.parse().ok(),
                mqtt: mqtt.parse().unwrap(),
                mqtts: mqtts.parse().ok(),
            };
            assert_eq!(listening.mqtt_addresses(), expected, "{listening:?}");
        }
        assert_eq!(
            dashboard("[::]:8443".parse().unwrap()),
            format!("https://{host}:8443/")
        );
    }
}
