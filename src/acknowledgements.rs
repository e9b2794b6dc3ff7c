//! Who has acknowledged which message. A message that asks for it is noted when it is sent; those it is
//! for say when they have dealt with it; whoever sent it can see who has. Kept as long as the log.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::bus::{Bucket, BucketError};
use crate::event::{Channel, Timestamp, UserId};

/// The most acknowledgements of one message; a record has to fit into one NATS message.
const RECEIPTS: usize = 5_000;

/// The acknowledgements of all messages. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Acknowledgements(Bucket);

/// A message that asks to be acknowledged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// Who has sent it.
    pub publisher: UserId,
    /// The channels that it is for; none for everybody.
    pub channels: Vec<Channel>,
    /// Whether each device is to acknowledge it.
    #[serde(default)]
    pub per_device: bool,
    /// Who has acknowledged it.
    pub receipts: Vec<Receipt>,
}

/// One acknowledgement.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    /// By whom.
    pub user_id: UserId,
    /// On which device, if the client has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub device: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// Why an acknowledgement can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum AckError {
    /// The message is not known, did not ask for it, or is too old.
    #[error("no message of that id asks to be acknowledged, or it is too old")]
    Unknown,
    /// Another message has the same id.
    #[error("another message that asks to be acknowledged has this id")]
    Taken,
    /// There are as many as there may be.
    #[error("the message has {RECEIPTS} acknowledgements, and no more are kept")]
    Full,
    /// The records can't be read or written.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

impl Acknowledgements {
    /// Kept in a bucket.
    #[must_use]
    pub fn new(bucket: Bucket) -> Self {
        Self(bucket)
    }

    /// Notes that a message asks to be acknowledged. The same message may be noted again.
    ///
    /// # Errors
    /// Another message has the same id; the record can't be written.
    pub async fn ask(
        &self,
        message: &str,
        publisher: &UserId,
        channels: &[Channel],
        per_device: bool,
    ) -> Result<(), AckError> {
        let asked = Asked {
            publisher: publisher.clone(),
            channels: channels.to_vec(),
            per_device,
            receipts: Vec::new(),
        };
        match self
            .0
            .write(&Bucket::key(message), encode(&asked), None)
            .await
        {
            Ok(_) => Ok(()),
            Err(BucketError::Changed) => {
                let known = self.of(message).await?;
                let same = known.publisher == *publisher && known.channels == channels;
                same.then_some(()).ok_or(AckError::Taken)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is known of a message.
    ///
    /// # Errors
    /// It is not known; the record can't be read.
    pub async fn of(&self, message: &str) -> Result<Asked, AckError> {
        let record = self.0.read(&Bucket::key(message)).await?;
        let record = record.ok_or(AckError::Unknown)?;
        decode(&record.value)
    }

    /// Notes that a user has acknowledged a message on a device; a second time changes nothing.
    ///
    /// # Errors
    /// It is not known, or has too many; the record can't be written.
    pub async fn acknowledge(
        &self,
        message: &str,
        user: &UserId,
        device: Option<&str>,
    ) -> Result<(), AckError> {
        let change = |record: Option<&[u8]>| {
            let mut asked = decode(record.ok_or(AckError::Unknown)?)?;
            let by =
                |receipt: &Receipt| receipt.user_id == *user && receipt.device.as_deref() == device;
            if asked.receipts.iter().any(by) {
                return Ok((None, ()));
            }
            if asked.receipts.len() >= RECEIPTS {
                return Err(AckError::Full);
            }
            asked.receipts.push(Receipt {
                user_id: user.clone(),
                device: device.map(str::to_owned),
                at: Timestamp::now(),
            });
            Ok((Some(encode(&asked)), ()))
        };
        self.0.modify(&Bucket::key(message), change).await?;
        Ok(())
    }
}

fn decode(record: &[u8]) -> Result<Asked, AckError> {
    serde_json::from_slice(record).map_err(|_| AckError::Unknown)
}

fn encode(asked: &Asked) -> bytes::Bytes {
    // Plain structs of text and numbers always serialize.
    serde_json::to_vec(asked).unwrap_or_default().into()
}
