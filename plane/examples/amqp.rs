//! A client of the message queue as agents are: with the credentials of a host, through pf9-comms. For the suites on lab hosts.
//!
//! `amqp CREDENTIALS PORT echo COUNT EXCHANGE KEY QUEUE` publishes numbered messages and reads them back; `publish EXCHANGE KEY`, `consume QUEUE`,
//! `declare QUEUE`, `bind QUEUE EXCHANGE` and `purge QUEUE` try one thing each. The exit code is 1 if RabbitMQ refuses.
//!
//! `outlast FILE EXCHANGE KEY` publishes numbered messages until the file is there, also over outages, and says how many were confirmed; `read-back COUNT QUEUE` empties the
//! queue, and fails if one of so many numbers is missing. `wait QUEUE` waits for the message of `publish`, also over outages, and says when a connection has ended.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use tokio::time::timeout;
use wire::enrolment::MessageQueue;

/// Time for everything.
const LIMIT: Duration = Duration::from_secs(120);
/// Time for a client that goes on through an outage, each part of which has its own limit.
const LIMIT_OF_OUTAGE: Duration = Duration::from_secs(600);
/// Time for one answer. Without it, the connection counts as broken.
const ANSWER: Duration = Duration::from_secs(10);
/// Pause after a message that outlasts: otherwise there are too many to read back.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause after a connection that broke, and the longest one: each is twice as long as the one before.
const PAUSE_BROKEN: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// For how long a queue is asked again after a connection that broke.
const AGAIN: Duration = Duration::from_secs(60);
/// Delivery mode of a message that is kept on the disk.
const PERSISTENT: u8 = 2;
/// The message of `publish`.
const ONE: &[u8] = b"x";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let limit = match arguments.get(2) {
        Some(&("outlast" | "wait")) => LIMIT_OF_OUTAGE,
        _ => LIMIT,
    };
    match timeout(limit, run(&arguments)).await {
        Ok(Ok(said)) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(_) => {
            eprintln!("no end within {} s", limit.as_secs());
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
    match action {
        ["outlast", file, exchange, key] => {
            return outlast(&uri, Path::new(file), (exchange, key)).await;
        }
        ["read-back", count, queue] => return read_back(&uri, count.parse()?, queue).await,
        ["wait", queue] => return wait(&uri, queue).await,
        _ => {}
    }
    let (_connection, channel) = opened(uri).await?;
    match action {
        ["echo", count, exchange, key, queue] => {
            echo(&channel, count.parse()?, (exchange, key), queue).await
        }
        ["publish", exchange, key] => {
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            publish(&channel, (exchange, key), ONE).await?;
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
        ["bind", queue, exchange] => {
            let options = QueueBindOptions::default();
            let (queue, exchange) = ((*queue).into(), (*exchange).into());
            channel
                .queue_bind(queue, exchange, "#".into(), options, FieldTable::default())
                .await?;
            Ok("bound".to_owned())
        }
        ["purge", queue] => {
            let options = QueuePurgeOptions::default();
            channel.queue_purge((*queue).into(), options).await?;
            Ok("purged".to_owned())
        }
        _ => Err("see the comment at its beginning".into()),
    }
}

/// A connection with a channel. The channel is closed with it.
async fn opened(uri: AMQPUri) -> Result<(Connection, Channel), Box<dyn Error>> {
    let connection = Connection::connect_uri(uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// Sleeps so long, and returns the length of the next pause.
async fn paused(length: Duration) -> Duration {
    tokio::time::sleep(length).await;
    (length * 2).min(LONGEST_PAUSE)
}

/// Publishes a message that is kept on the disk, and waits until it is confirmed.
async fn publish(
    channel: &Channel,
    (exchange, key): (&str, &str),
    text: &[u8],
) -> Result<(), Box<dyn Error>> {
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let sent = channel.basic_publish(exchange.into(), key.into(), options, text, properties);
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
    all_received(channel).await?;
    Ok(format!("{count} there and back"))
}

/// What a client has published over all its connections.
#[derive(Default)]
struct Published {
    confirmed: u32,
    connections: u32,
}

/// Publishes numbered messages, one after the other, until the file `end` is there. A message that is not confirmed is published again on the next connection.
async fn outlast(uri: &AMQPUri, end: &Path, place: (&str, &str)) -> Result<String, Box<dyn Error>> {
    let mut published = Published::default();
    let mut pause = PAUSE_BROKEN;
    while !end.exists() {
        if let Err(error) = publish_numbers(uri.clone(), end, place, &mut published).await {
            eprintln!("after {} messages: {error}", published.confirmed);
            pause = paused(pause).await;
        }
    }
    let Published {
        confirmed,
        connections,
    } = published;
    Ok(format!(
        "{confirmed} confirmed on {connections} connections"
    ))
}

/// Does that on one connection.
async fn publish_numbers(
    uri: AMQPUri,
    end: &Path,
    place: (&str, &str),
    published: &mut Published,
) -> Result<(), Box<dyn Error>> {
    let (_connection, channel) = timeout(ANSWER, opened(uri)).await??;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    timeout(ANSWER, confirms).await??;
    let mut is_first = true;
    while !end.exists() {
        let text = published.confirmed.to_string();
        timeout(ANSWER, publish(&channel, place, text.as_bytes())).await??;
        published.confirmed += 1;
        if is_first {
            is_first = false;
            published.connections += 1;
            println!("connection {} confirms", published.connections);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// A message that was read: its text, and whether it was delivered before.
type Read = (String, bool);

/// Empties a queue, also over outages, for [`AGAIN`] at most. All numbers below `count` have to be there, in order. One that was published again may be there again.
async fn read_back(uri: &AMQPUri, count: u32, queue: &str) -> Result<String, Box<dyn Error>> {
    let mut messages = Vec::new();
    let end = Instant::now() + AGAIN;
    let mut pause = PAUSE_BROKEN;
    loop {
        let emptied = empty(uri.clone(), queue, &mut messages).await;
        let Err(error) = emptied else { break };
        if Instant::now() >= end {
            let limit = AGAIN.as_secs();
            return Err(format!("{queue} is not empty within {limit} s: {error}").into());
        }
        eprintln!("after {} messages: {error}", messages.len());
        pause = paused(pause).await;
    }
    are_in_order(&messages, count)
}

/// Empties a queue on one connection. A message whose receipt is lost comes again on the next one.
async fn empty(uri: AMQPUri, queue: &str, messages: &mut Vec<Read>) -> Result<(), Box<dyn Error>> {
    let (_connection, channel) = timeout(ANSWER, opened(uri)).await??;
    let options = BasicGetOptions::default();
    while let Some(message) = timeout(ANSWER, channel.basic_get(queue.into(), options)).await?? {
        let message = message.delivery;
        let text = String::from_utf8_lossy(&message.data).into_owned();
        messages.push((text, message.redelivered));
        message.ack(BasicAckOptions::default()).await?;
    }
    timeout(ANSWER, all_received(&channel)).await?
}

/// Returns when the broker has read all receipts: those that are still on their way would be lost with the connection. Its answer to a question comes after that.
async fn all_received(channel: &Channel) -> Result<(), Box<dyn Error>> {
    channel.basic_qos(1, BasicQosOptions::default()).await?;
    Ok(())
}

fn are_in_order(messages: &[Read], count: u32) -> Result<String, Box<dyn Error>> {
    let mut next = 0;
    for (text, is_again) in messages {
        let number: u32 = match text.parse() {
            Ok(number) => number,
            // Of an earlier client, whose receipt was lost.
            Err(_) if *is_again => continue,
            Err(error) => return Err(format!("{text}: {error}").into()),
        };
        if number > next {
            return Err(format!("message {number} comes, and {next} is missing").into());
        }
        next += u32::from(number == next);
    }
    // The last one may be there without its confirmation.
    if next < count {
        return Err(format!("the queue ends before message {next} of {count}").into());
    }
    Ok(format!("{count} in order"))
}

/// Waits for [`ONE`] as a daemon does: a connection that has ended is made again.
async fn wait(uri: &AMQPUri, queue: &str) -> Result<String, Box<dyn Error>> {
    let mut connections = 0;
    let mut pause = PAUSE_BROKEN;
    loop {
        match consumer(uri.clone(), queue).await {
            Ok((_connection, channel, mut messages)) => {
                connections += 1;
                println!("connection {connections} waits");
                match one(&channel, &mut messages).await {
                    Ok(()) => {
                        return Ok(format!("the message is there on connection {connections}"));
                    }
                    Err(error) => println!("connection {connections} ended: {error}"),
                }
            }
            Err(error) => eprintln!("after {connections} connections: {error}"),
        }
        pause = paused(pause).await;
    }
}

/// A connection with a channel, on which the messages of a queue come.
async fn consumer(
    uri: AMQPUri,
    queue: &str,
) -> Result<(Connection, Channel, Consumer), Box<dyn Error>> {
    let (connection, channel) = timeout(ANSWER, opened(uri)).await??;
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
    let messages = timeout(ANSWER, consuming).await??;
    Ok((connection, channel, messages))
}

/// Returns when [`ONE`] has come. Messages of earlier clients are passed over.
async fn one(channel: &Channel, messages: &mut Consumer) -> Result<(), Box<dyn Error>> {
    loop {
        let message = messages.next().await.ok_or("the queue has ended")??;
        message.ack(BasicAckOptions::default()).await?;
        if message.data == ONE {
            return all_received(channel).await;
        }
    }
}
