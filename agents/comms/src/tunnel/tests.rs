use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncReadExt as _, ReadBuf, duplex, split};
use tokio::net::TcpListener;

use super::*;

/// A connection that takes no more, or gives no more.
struct Broken;

fn broken<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
}

impl AsyncWrite for Broken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        broken()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        broken()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        broken()
    }
}

impl AsyncRead for Broken {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        broken()
    }
}

impl Source for Broken {}

impl Source for &[u8] {}

/// Gives bytes, breaks once, and then has nothing more: as the kernel does with a connection that was reset.
struct BreaksOnce(Vec<io::Result<&'static [u8]>>);

impl AsyncRead for BreaksOnce {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let next = self.0.pop();
        Poll::Ready(next.unwrap_or(Ok(&[])).map(|bytes| into.put_slice(bytes)))
    }
}

impl Source for BreaksOnce {}

#[tokio::test]
async fn what_was_broken_off_after_some_bytes_is_not_ended() {
    let reset = || Err(io::ErrorKind::ConnectionReset.into());
    let mut from = BreaksOnce(vec![reset(), Ok(b"half")]);
    let (mut to, mut seen) = duplex(100);
    let all = AtomicU64::new(0);
    let ended = pump(&mut from, &mut to, &Meter::new(&all)).await;
    assert!(matches!(ended, Err(PumpError::Read(_))));
    let mut bytes = [0; 4];
    seen.read_exact(&mut bytes)
        .await
        .expect("they were passed on");
    assert_eq!(&bytes, b"half");
    // The other side would take an end for the end of the request.
    let mut rest = [0; 1];
    let end = poll_fn(|context| {
        let mut rest = ReadBuf::new(&mut rest);
        Poll::Ready(Pin::new(&mut seen).poll_read(context, &mut rest).is_ready())
    });
    assert!(!end.await, "its end was passed on");
}

/// A service may refuse a long request before its end.
#[tokio::test]
async fn an_answer_arrives_as_a_whole_although_the_plane_takes_no_more() {
    let (mut program, local) = duplex(1000);
    let (mut from_local, mut to_local) = split(local);
    let answer = vec![b'a'; 300_000];
    let all = AtomicU64::new(0);
    let (up, down) = (Meter::new(&all), Meter::new(&all));
    let mut from_plane = &answer[..];
    let mut to_plane = Broken;
    let carried = async {
        let local = (&mut from_local, &mut to_local);
        let answered = carry(local, (&mut from_plane, &mut to_plane), &up, &down).await;
        answered.expect("it comes to its end")
    };
    let works = async {
        program
            .write_all(&[b'r'; 100_000])
            .await
            .expect("it is taken");
        program.shutdown().await.expect("it ends");
        let mut read = Vec::new();
        program.read_to_end(&mut read).await.expect("it is whole");
        read.len()
    };
    let (end, read) = tokio::join!(carried, works);
    assert_eq!((end.took_all, read), (false, 300_000));
    assert!(!end.is_unanswered);
    assert_eq!(down.count(), 300_000);
}

/// Its program must not go on to send what goes nowhere.
#[tokio::test(start_paused = true)]
async fn what_is_sent_after_the_end_of_the_answer_is_discarded_for_seconds_only() {
    let (mut program, local) = duplex(10);
    let (mut from_local, mut to_local) = split(local);
    let all = AtomicU64::new(0);
    let (up, down) = (Meter::new(&all), Meter::new(&all));
    let mut from_plane = &b"no"[..];
    let carried = async {
        let local = (&mut from_local, &mut to_local);
        carry(local, (&mut from_plane, &mut Broken), &up, &down).await
    };
    let sends = async {
        loop {
            let _ = program.write_all(b"more").await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let began = tokio::time::Instant::now();
    let took_all = tokio::select! {
        carried = carried => carried.expect("it ends").took_all,
        () = sends => true,
    };
    assert!(!took_all);
    assert_eq!(began.elapsed().as_secs(), DISCARDS.as_secs());
}

/// The backend of a wrong server name, for example. A look whether there is a listener is no question.
#[tokio::test]
async fn a_question_without_an_answer_is_told_from_a_look_at_the_port() {
    let eof = || Err(io::ErrorKind::UnexpectedEof.into());
    let silence = || BreaksOnce(Vec::new());
    let cut = || BreaksOnce(vec![eof()]);
    let answer = || BreaksOnce(vec![Ok(b"answer")]);
    // The program ends its direction after its question. What the plane says, and whether that is no answer.
    for (question, mut plane, is_unanswered) in [
        (&b"x"[..], silence(), true),
        (&b"x"[..], cut(), true),
        (&b"x"[..], answer(), false),
        (&b""[..], answer(), false),
    ] {
        let all = AtomicU64::new(0);
        let (up, down) = (Meter::new(&all), Meter::new(&all));
        let (mut program, local) = duplex(1000);
        let (mut from_local, mut to_local) = split(local);
        program.write_all(question).await.expect("it is open");
        program.shutdown().await.expect("it ends");
        let local = (&mut from_local, &mut to_local);
        let carried = carry(local, (&mut plane, &mut Vec::new()), &up, &down).await;
        let found = match carried {
            Ok(end) => end.is_unanswered,
            Err(RelayError::Unanswered) => true,
            Err(error) => panic!("{question:?}: {error}"),
        };
        assert_eq!(found, is_unanswered, "{question:?}");
    }
    // The plane ends when the program has ended, and before.
    for ends_first in [true, false] {
        let all = AtomicU64::new(0);
        let (up, down) = (Meter::new(&all), Meter::new(&all));
        let (program, local) = duplex(1000);
        let (mut from_local, mut to_local) = split(local);
        let (service, plane) = duplex(1000);
        let (mut from_plane, mut to_plane) = split(plane);
        let carried = async {
            let local = (&mut from_local, &mut to_local);
            carry(local, (&mut from_plane, &mut to_plane), &up, &down).await
        };
        let ends = async move {
            let (mut first, mut second) = match ends_first {
                true => (program, service),
                false => (service, program),
            };
            let mut rest = Vec::new();
            first.shutdown().await.expect("it ends");
            second.read_to_end(&mut rest).await.expect("the end comes");
            second.shutdown().await.expect("it ends");
            first.read_to_end(&mut rest).await.expect("the end comes");
            assert_eq!(rest, b"");
        };
        let (end, ()) = tokio::join!(carried, ends);
        let end = end.expect("it comes to its end");
        assert_eq!(end.is_unanswered, !ends_first);
    }
}

#[tokio::test]
async fn a_side_that_breaks_ends_both_directions() {
    let all = AtomicU64::new(0);
    let (up, down) = (Meter::new(&all), Meter::new(&all));
    let (_program, local) = duplex(1000);
    let (mut from_local, mut to_local) = split(local);
    let local = (&mut from_local, &mut to_local);
    let carried = carry(local, (&mut Broken, &mut Vec::new()), &up, &down).await;
    assert!(matches!(carried, Err(RelayError::Plane(_))), "{carried:?}");
    let (_service, plane) = duplex(1000);
    let (mut from_plane, mut to_plane) = split(plane);
    let plane = (&mut from_plane, &mut to_plane);
    let carried = carry((&mut Broken, &mut Vec::new()), plane, &up, &down).await;
    assert!(matches!(carried, Err(RelayError::Local(_))), "{carried:?}");
}

/// The plane takes nothing and says nothing, so neither direction touches the local connection.
#[tokio::test]
async fn a_program_that_has_gone_ends_a_tunnel_that_waits_for_the_plane() {
    let all = AtomicU64::new(0);
    let (up, down) = (Meter::new(&all), Meter::new(&all));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its port");
    let mut program = TcpStream::connect(address).await.expect("it connects");
    let (mut local, _) = listener.accept().await.expect("it is accepted");
    let (mut from_local, mut to_local) = local.split();
    let (mut service, plane) = duplex(1000);
    let (mut from_plane, mut to_plane) = split(plane);
    let carried = async {
        let local = (&mut from_local, &mut to_local);
        carry(local, (&mut from_plane, &mut to_plane), &up, &down).await
    };
    let goes = async {
        program.write_all(&[b'r'; 3000]).await.expect("it is taken");
        // Then the tunnel has read it, and waits for the plane.
        let mut first = [0; 1];
        service.read_exact(&mut first).await.expect("it arrives");
        drop(ResetOnDrop::new(program));
    };
    let both = async { tokio::join!(carried, goes) };
    let (carried, ()) = timeout(ANSWER, both).await.expect("it is noticed");
    assert!(matches!(carried, Err(RelayError::Local(_))), "{carried:?}");
    assert_eq!(up.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_the_end_of_one_direction_the_other_one_may_not_be_silent_for_ever() {
    let all = AtomicU64::new(0);
    let (up, down) = (Meter::new(&all), Meter::new(&all));
    let (mut program, local) = duplex(1000);
    let (mut from_local, mut to_local) = split(local);
    let (mut service, plane) = duplex(1000);
    let (mut from_plane, mut to_plane) = split(plane);
    program.shutdown().await.expect("it ends");
    let carried = async {
        let local = (&mut from_local, &mut to_local);
        carry(local, (&mut from_plane, &mut to_plane), &up, &down).await
    };
    let serves = async {
        for _ in 0..3 {
            tokio::time::sleep(HALF_CLOSED - Duration::from_secs(1)).await;
            service.write_all(b"a").await.expect("it is open");
        }
    };
    let began = tokio::time::Instant::now();
    let (carried, ()) = tokio::join!(carried, serves);
    assert!(matches!(carried, Err(RelayError::Silent)), "{carried:?}");
    assert_eq!(down.count(), 3);
    assert!(began.elapsed() > 3 * HALF_CLOSED, "{:?}", began.elapsed());
}
