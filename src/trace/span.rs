//! One span in the making, and its form on the wire.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span as Wire, Status};

use super::Tracer;
use crate::event::{SpanId, TraceContext};

/// That the parent is known to be of this process, or of another.
const PARENT_KNOWN: u32 = 0x100;
const PARENT_REMOTE: u32 = 0x200;

/// What a span is to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A step within this process.
    Internal,
    /// Answering a request.
    Server,
    /// Sending a message.
    Producer,
    /// Taking a message.
    Consumer,
}

/// Which span a span is a child of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// None: it is the first.
    None,
    /// One of this process.
    Local(SpanId),
    /// One of another process.
    Remote(SpanId),
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(String),
    /// A whole number.
    Number(i64),
}

/// A span that is over when it is dropped.
#[derive(Debug)]
pub struct Span {
    tracer: Tracer,
    context: TraceContext,
    parent: Parent,
    kind: Kind,
    name: String,
    began: SystemTime,
    attributes: Vec<(&'static str, Value)>,
    error: Option<String>,
}

/// A span that is over, in all its parts.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) context: TraceContext,
    pub(super) parent: Parent,
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) began: SystemTime,
    pub(super) ended: SystemTime,
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) error: Option<String>,
}

impl Span {
    pub(super) fn begin(
        tracer: Tracer,
        context: TraceContext,
        parent: Parent,
        kind: Kind,
        name: String,
    ) -> Self {
        Self {
            tracer,
            context,
            parent,
            kind,
            name,
            began: SystemTime::now(),
            attributes: Vec::new(),
            error: None,
        }
    }

    /// What follows from it is a child of this.
    #[must_use]
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Says something about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.attributes.push((key, value.into()));
    }

    /// It is known only now what it is about.
    pub fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// It has failed, for a reason from a closed list.
    pub fn fail(&mut self, reason: &str) {
        self.error = Some(reason.to_owned());
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let done = Done {
            context: self.context.clone(),
            parent: self.parent,
            kind: self.kind,
            name: std::mem::take(&mut self.name),
            began: self.began,
            ended: SystemTime::now(),
            attributes: std::mem::take(&mut self.attributes),
            error: self.error.take(),
        };
        self.tracer.send(done);
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::from(number as u64)
    }
}

impl Done {
    /// As the collector takes it.
    pub(super) fn wire(self) -> Wire {
        let (parent, flags) = match self.parent {
            Parent::None => (Vec::new(), PARENT_KNOWN),
            Parent::Local(span) => (span.0.to_vec(), PARENT_KNOWN),
            Parent::Remote(span) => (span.0.to_vec(), PARENT_KNOWN | PARENT_REMOTE),
        };
        let mut attributes: Vec<KeyValue> = self
            .attributes
            .into_iter()
            .map(|(key, value)| attribute(key, value))
            .collect();
        let status = self.error.map(|reason| {
            attributes.push(attribute("error.type", reason.as_str().into()));
            Status {
                code: StatusCode::Error.into(),
                message: String::new(),
            }
        });
        let kind = match self.kind {
            Kind::Internal => SpanKind::Internal,
            Kind::Server => SpanKind::Server,
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
        };
        Wire {
            trace_id: self.context.trace().0.to_vec(),
            span_id: self.context.span().0.to_vec(),
            trace_state: self.context.state().unwrap_or_default().to_owned(),
            parent_span_id: parent,
            flags: flags | u32::from(self.context.flags()),
            name: self.name,
            kind: kind.into(),
            start_time_unix_nano: nanos(self.began),
            end_time_unix_nano: nanos(self.ended.max(self.began)),
            attributes,
            status,
            ..Wire::default()
        }
    }
}

/// An attribute as the collector takes it.
pub(super) fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => Any::StringValue(text),
        Value::Number(number) => Any::IntValue(number),
    };
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn nanos(moment: SystemTime) -> u64 {
    let since = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
