//! Streaming replication between servers, and the clients whose commits wait for it.

use crate::oracle::accepts_writes;
use crate::postgres::{Phase, Relation};
use crate::store::Us;
use crate::world::{Event, Input, MS, PgEvent, SECOND, World, note};

/// A silent connection is given up after this long (wal_sender_timeout, wal_receiver_timeout).
const SILENCE: Us = 6 * SECOND;

/// A walsender and its walreceiver.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub(crate) from: usize,
    pub(crate) to: usize,
    from_epoch: u32,
    to_epoch: u32,
    /// Records sent.
    sent: usize,
    /// Records that the standby is known to have flushed.
    pub(crate) flushed: usize,
    shipping: bool,
    stalled_since: Option<Us>,
}

impl World {
    /// The stream that feeds a node, if any.
    pub(crate) fn stream_to(&self, to: usize) -> Option<u32> {
        self.streams.iter().find(|(_, s)| s.to == to).map(|(id, _)| *id)
    }

    /// A standby tries to connect.
    pub(crate) fn receiver(&mut self, n: usize) {
        let node = &self.nodes[n];
        if node.server.primary || node.server.phase != Phase::Up {
            return;
        }
        let epoch = node.server.epoch;
        if let (Some(up), None) = (node.disk.upstream, self.stream_to(n)) {
            self.connect(n, up);
        }
        self.after(200 * MS, 900 * MS, Event::Pg(n, epoch, PgEvent::Receiver));
    }

    fn connect(&mut self, n: usize, up: usize) {
        let (source, sink) = (&self.nodes[up], &self.nodes[n]);
        let reachable = source.host_up && !self.is_cut(n, up) && !self.is_cut(up, n) && up != n;
        if !reachable
            || source.server.phase != Phase::Up
            || source.server.is_frozen(self.now)
            || self.now < source.paused_until
            || source.disk.system_identifier != sink.disk.system_identifier
            || sink.disk.relation_to(&source.disk) != Relation::Ancestor
        {
            return;
        }
        let mine = sink.disk.wal.len();
        if sink.disk.common_with(&source.disk) != mine {
            let what = format!("{} streams from {} although their data differs", sink.name, source.name);
            self.expect(Err(what));
            return;
        }
        let (from_epoch, to_epoch) = (source.server.epoch, sink.server.epoch);
        note!(self, "{}     streams from {}", self.nodes[n].name, self.nodes[up].name);
        self.next_stream += 1;
        let stream = Stream {
            from: up,
            to: n,
            from_epoch,
            to_epoch,
            sent: mine,
            flushed: mine,
            shipping: false,
            stalled_since: None,
        };
        self.streams.insert(self.next_stream, stream);
        self.pump(self.next_stream);
    }

    fn is_alive(&self, s: &Stream) -> bool {
        self.nodes[s.from].server.epoch == s.from_epoch && self.nodes[s.to].server.epoch == s.to_epoch
    }

    /// Sends what there is, unless something is on its way already.
    fn pump(&mut self, id: u32) {
        let Some(s) = self.streams.get_mut(&id) else { return };
        if !s.shipping && self.nodes[s.from].disk.wal.len() > s.sent {
            s.shipping = true;
            self.after(MS / 5, MS, Event::Ship(id));
        }
    }

    /// New records on this node: its walsenders wake.
    pub(crate) fn pump_from(&mut self, n: usize) {
        let ids: Vec<u32> = self.streams.iter().filter(|(_, s)| s.from == n).map(|(id, _)| *id).collect();
        for id in ids {
            self.pump(id);
        }
    }

    /// Whether a message can't get through now; the stream ends when that lasts.
    fn is_stalled(&mut self, id: u32, from: usize, to: usize, retry: Event) -> bool {
        let frozen = |n: usize| self.nodes[n].server.is_frozen(self.now) || self.now < self.nodes[n].paused_until;
        let stuck = frozen(from) || frozen(to) || self.is_cut(from, to) || self.is_cut(to, from);
        let Some(s) = self.streams.get_mut(&id) else { return true };
        if !stuck {
            s.stalled_since = None;
            return false;
        }
        let since = *s.stalled_since.get_or_insert(self.now);
        if self.now >= since + SILENCE {
            self.disconnect(id);
        } else {
            self.after(30 * MS, 60 * MS, retry);
        }
        true
    }

    pub(crate) fn ship(&mut self, id: u32) {
        let Some(s) = self.streams.get(&id).cloned() else { return };
        if !self.is_alive(&s) {
            self.disconnect(id);
            return;
        }
        if self.is_stalled(id, s.from, s.to, Event::Ship(id)) {
            return;
        }
        let disk = &self.nodes[s.from].disk;
        let records = disk.wal[s.sent..].to_vec();
        let (timeline, history) = (disk.timeline, disk.history.clone());
        if let Some(s) = self.streams.get_mut(&id) {
            s.sent += records.len();
        }
        let slow = if self.random.permille(20) { 200 * MS } else { 4 * MS };
        self.after(MS / 5, slow, Event::Deliver { stream: id, records, timeline, history });
    }

    pub(crate) fn deliver(&mut self, id: u32, records: Vec<u64>, timeline: u32, history: Vec<(u32, usize)>) {
        let Some(s) = self.streams.get(&id).cloned() else { return };
        if self.nodes[s.to].server.epoch != s.to_epoch {
            self.disconnect(id);
            return;
        }
        let again = Event::Deliver { stream: id, records: records.clone(), timeline, history: history.clone() };
        if self.is_stalled(id, s.from, s.to, again) {
            return;
        }
        let disk = &mut self.nodes[s.to].disk;
        disk.wal.extend(records);
        let source = crate::postgres::Disk { timeline, history, ..Default::default() };
        let now_on = source.timeline_at(disk.wal.len());
        if now_on != disk.timeline {
            disk.timeline = now_on;
            disk.history = source.history.into_iter().filter(|(t, _)| *t < now_on).collect();
        }
        let flushed = disk.wal.len();
        if let Some(s) = self.streams.get_mut(&id) {
            s.shipping = false;
        }
        self.after(MS / 5, 3 * MS, Event::Acknowledge { stream: id, flushed });
        self.pump(id);
        self.pump_from(s.to);
    }

    pub(crate) fn acknowledged(&mut self, id: u32, flushed: usize) {
        let Some(s) = self.streams.get(&id).cloned() else { return };
        if !self.is_alive(&s) {
            self.disconnect(id);
            return;
        }
        if self.is_stalled(id, s.to, s.from, Event::Acknowledge { stream: id, flushed }) {
            return;
        }
        if let Some(s) = self.streams.get_mut(&id) {
            s.flushed = s.flushed.max(flushed);
        }
        self.release_waiting(s.from);
        if self.nodes[s.from].server.phase == Phase::Stopping {
            self.stop_progress(s.from);
        }
    }

    pub(crate) fn disconnect(&mut self, id: u32) {
        if let Some(s) = self.streams.remove(&id) {
            note!(self, "{}     stops streaming from {}", self.nodes[s.to].name, self.nodes[s.from].name);
            self.tell(s.to, MS, 5 * MS, Input::Poked);
        }
    }

    /// Both ends of every stream of this node's server are gone.
    pub(crate) fn disconnect_all(&mut self, n: usize) {
        let ids: Vec<u32> = self.streams.iter().filter(|(_, s)| s.from == n || s.to == n).map(|(id, _)| *id).collect();
        for id in ids {
            self.disconnect(id);
        }
    }

    /// Standbys connected to a node: name, records flushed.
    pub(crate) fn standbys(&self, n: usize) -> Vec<(&str, usize)> {
        self.streams.values().filter(|s| s.from == n).map(|s| (self.nodes[s.to].name.as_str(), s.flushed)).collect()
    }

    /// A client tries to write to a node.
    pub(crate) fn client_write(&mut self, n: usize) {
        let pause = if self.writing { self.plan.write_pause } else { SECOND };
        self.after(pause / 2, pause * 3 / 2, Event::Write(n));
        if !self.writing || !accepts_writes(&self.nodes[n], self.now) {
            return;
        }
        self.next_record += 1;
        let id = self.next_record;
        let node = &mut self.nodes[n];
        node.disk.wal.push(id);
        node.server.waiting.push(crate::postgres::Waiting { position: node.disk.wal.len(), id });
        self.pump_from(n);
        self.release_waiting(n);
    }

    /// Acknowledges the commits that no longer wait for anybody.
    pub(crate) fn release_waiting(&mut self, n: usize) {
        if !accepts_writes(&self.nodes[n], self.now) || self.nodes[n].server.waiting.is_empty() {
            return;
        }
        let standbys = self.standbys(n);
        let required = self.nodes[n].server.sync.clone();
        let done = |position| required.satisfied(&standbys, position);
        let (released, kept): (Vec<_>, Vec<_>) =
            self.nodes[n].server.waiting.iter().copied().partition(|w| done(w.position));
        self.nodes[n].server.waiting = kept;
        let protected = self
            .store
            .cluster()
            .sync
            .as_ref()
            .is_some_and(|s| required != crate::postgres::Required::Nobody || s.value.leader == self.nodes[n].name);
        for w in released {
            self.oracle.acknowledge(w.position, w.id, protected);
            if !protected {
                continue;
            }
            let leads = |i: usize| {
                accepts_writes(&self.nodes[i], self.now) && self.store.cluster().is_led_by(&self.nodes[i].name)
            };
            let leader = (0..self.nodes.len()).find(|i| *i != n && leads(*i));
            if let Some(leader) = leader {
                let (name, disk) = (&self.nodes[leader].name, &self.nodes[leader].disk);
                let result = self.oracle.on_primary(name, disk, w.position, w.id);
                self.expect(result);
            }
        }
    }
}
