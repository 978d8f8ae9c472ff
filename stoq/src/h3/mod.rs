//! The traits of the `h3` crate over this crate's connections.
//!
//! HTTP/3 servers and clients of the house run the `h3` crate on these newtypes, so that no code outside
//! [`quic`](crate::quic) knows which QUIC implementation is below.
//!
//! ```no_run
//! # async fn serve(connection: stoq::quic::Connection) -> Result<(), Box<dyn std::error::Error>> {
//! let connection = stoq::h3::Connection::new(connection);
//! let mut h3 = h3::server::Connection::<_, stoq::h3::Payload>::new(connection).await?;
//! while let Some(request) = h3.accept().await? {
//!     let (request, mut stream) = request.resolve_request().await?;
//!     // …
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What differs from a plain adapter:
//! - A frame's head and a small payload go down as one buffer in one call. A large payload goes down without a
//!   copy if the body type is [`Payload`]; with `Bytes` it is copied once, as `h3` shows it only as a slice.
//! - A response that is dropped unfinished is reset, never ended: no short body looks whole.
//! - A request stream dropped when its end had arrived tells the client nothing; without this every answered
//!   request would count as stopped at the client.
//!
//! Beside the adapters, for servers and clients that write and read their request streams themselves: [`frame`] and
//! [`qpack`], which own no stream.

mod body;
mod connection;
pub mod frame;
pub mod qpack;
mod stream;

pub use body::{Body, Payload, Taken};
pub use connection::{Connection, OpenStreams, closed};
pub use stream::{BidiStream, RecvStream, SendStream};
