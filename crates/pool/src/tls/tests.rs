//! Handshakes in memory for every mode and every refusal.

use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, ConnectionCommon, Error, ServerConfig, ServerConnection, SideData};
use rustls_pki_types::ServerName;

mod clients;
mod material;
mod negotiation;
mod servers;

/// Both ends after a handshake, or the first fault: who found it, and what it was.
#[derive(Debug)]
struct Shaken {
    server: ServerConnection,
    client: ClientConnection,
}

fn shake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Shaken, (&'static str, Error)> {
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    while client.wants_write() || server.wants_write() {
        pass(&mut client, &mut server).map_err(|e| ("server", e))?;
        pass(&mut server, &mut client).map_err(|e| ("client", e))?;
    }
    assert!(!server.is_handshaking() && !client.is_handshaking());
    Ok(Shaken { server, client })
}

fn pass<A: SideData, B: SideData>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>) -> Result<(), Error> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut wire = wire.as_slice();
    while !wire.is_empty() {
        to.read_tls(&mut wire).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

fn host(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).unwrap()
}
