//! Model, Session, Stream: the stages tied together.
