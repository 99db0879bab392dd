//! A client of the message queue as agents are: with the credentials of a host, through pf9-comms. For the suites on lab hosts.
//!
//! `amqp CREDENTIALS PORT echo COUNT EXCHANGE KEY QUEUE` publishes numbered messages and reads them back; `publish EXCHANGE KEY`, `consume QUEUE` and
//! `declare QUEUE` try one thing each. The exit code is 1 if RabbitMQ refuses.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use wire::enrolment::MessageQueue;

/// Time for everything.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match tokio::time::timeout(LIMIT, run(&arguments)).await {
        Ok(Ok(said)) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("no end within {} s", LIMIT.as_secs());
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    let [credentials, port, action @ ..] = arguments else {
        return Err("see the comment at its beginning".into());
    };
    let credentials: MessageQueue = serde_json::from_str(&std::fs::read_to_string(credentials)?)?;
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo {
                username: credentials.user,
                password: credentials.password.0,
            },
            host: "localhost".to_owned(),
            port: port.parse()?,
        },
        vhost: credentials.virtual_host,
        query: AMQPQueryString::default(),
    };
    let connection = Connection::connect_uri(uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    match action {
        ["echo", count, exchange, key, queue] => {
            echo(&channel, count.parse()?, (exchange, key), queue).await
        }
        ["publish", exchange, key] => {
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            publish(&channel, exchange, key).await?;
            Ok("published".to_owned())
        }
        ["consume", queue] => {
            let options = BasicConsumeOptions::default();
            channel
                .basic_consume((*queue).into(), "".into(), options, FieldTable::default())
                .await?;
            Ok("consumes".to_owned())
        }
        ["declare", queue] => {
            let options = QueueDeclareOptions::default();
            channel
                .queue_declare((*queue).into(), options, FieldTable::default())
                .await?;
            Ok("declared".to_owned())
        }
        _ => Err("see the comment at its beginning".into()),
    }
}

async fn publish(channel: &Channel, exchange: &str, key: &str) -> Result<(), Box<dyn Error>> {
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default();
    let sent = channel.basic_publish(exchange.into(), key.into(), options, b"x", properties);
    match sent.await?.await? {
        Confirmation::Ack(_) => Ok(()),
        other => Err(format!("{key}: {other:?}").into()),
    }
}

/// A receipt may be lost with its connection. The queue then gives the message once more: such a one of an earlier client is passed over.
async fn echo(
    channel: &Channel,
    count: u32,
    (exchange, key): (&str, &str),
    queue: &str,
) -> Result<String, Box<dyn Error>> {
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let options = BasicConsumeOptions::default();
    let mut messages = channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await?;
    let client = SystemTime::now()
        .duration_since(UNIX_EPOCH)?
        .as_nanos()
        .to_string();
    let sending = async {
        let mut open = Vec::new();
        for number in 0..count {
            let options = BasicPublishOptions::default();
            let text = format!("{client} {number}");
            let properties = BasicProperties::default();
            open.push(
                channel
                    .basic_publish(
                        exchange.into(),
                        key.into(),
                        options,
                        text.as_bytes(),
                        properties,
                    )
                    .await?,
            );
        }
        for sent in open {
            if !matches!(sent.await?, Confirmation::Ack(_)) {
                return Err("a message is not confirmed".into());
            }
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let receiving = async {
        let mut number = 0;
        while number < count {
            let message = messages.next().await.ok_or("the queue has ended")??;
            let text = String::from_utf8_lossy(&message.data).into_owned();
            let is_next = text == format!("{client} {number}");
            if !is_next && (!message.redelivered || text.starts_with(&client)) {
                return Err(format!("{text} instead of {client} {number}").into());
            }
            message.ack(BasicAckOptions::default()).await?;
            number += u32::from(is_next);
        }
        Ok::<_, Box<dyn Error>>(())
    };
    let (sent, received) = tokio::join!(sending, receiving);
    sent?;
    received?;
    // The answer to a question comes after the broker has read all receipts: those that are still on their way would be lost with the connection.
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    Ok(format!("{count} there and back"))
}
