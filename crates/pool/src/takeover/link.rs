//! A connection between two poolers: packets of text, with file descriptors. What they mean is in the parent module.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::Error;

/// Longest packet. A cancel request is the longest.
const PACKET: usize = 512;

/// File descriptors that a packet may carry.
const DESCRIPTORS: usize = 4;

/// One end of a connection. The stream's type stands for a socket of packets, which tokio has no type for.
#[derive(Debug)]
pub(super) struct Link {
    stream: UnixStream,
    /// The process at the other end.
    pub(super) pid: i32,
}

impl Link {
    /// Uses a connected socket, unless somebody else's process is at the other end.
    pub(super) fn new(stream: UnixStream) -> Result<Link, Error> {
        let peer =
            rustix::net::sockopt::socket_peercred(&stream).map_err(|e| Error::Io("find out who is there", e.into()))?;
        let (pid, uid) = (peer.pid.as_raw_nonzero().get(), peer.uid);
        if !uid.is_root() && uid != rustix::process::geteuid() {
            return Err(Error::Stranger { pid, uid: uid.as_raw() });
        }
        Ok(Link { stream, pid })
    }

    /// Sends a packet.
    pub(super) async fn send(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let sent = self.stream.async_io(Interest::WRITABLE, || {
            let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "there is room for one");
            }
            Ok(sendmsg(&self.stream, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?)
        });
        match sent.await {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                Err(Error::Gone)
            }
            Err(e) => Err(Error::Io("send to the other process", e)),
        }
    }

    /// Waits for a packet.
    pub(super) async fn receive(&self) -> Result<(String, Option<OwnedFd>), Error> {
        let received = self.stream.async_io(Interest::READABLE, || receive(self.stream.as_fd()));
        match received.await {
            Ok((text, _)) if text.is_empty() => Err(Error::Gone),
            Ok(packet) => Ok(packet),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Err(Error::Gone),
            Err(e) => Err(Error::Io("hear from the other process", e)),
        }
    }
}

/// One packet; an empty one is the end.
fn receive(fd: BorrowedFd<'_>) -> io::Result<(String, Option<OwnedFd>)> {
    let mut packet = [0; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(fd, &mut [IoSliceMut::new(&mut packet)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.last();
        }
    }
    Ok((String::from_utf8_lossy(&packet[..received.bytes]).into_owned(), descriptor))
}
