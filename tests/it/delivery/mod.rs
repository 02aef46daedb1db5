//! Webhooks to real receivers.
