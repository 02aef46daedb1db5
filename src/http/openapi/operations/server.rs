//! Health, metrics and documentation.

use crate::http::openapi::operation::{Operation, Tag, operations};
use crate::http::problem;

operations! { Server:
    /// Explain an error code
    GET_PROBLEM "getProblem" [];
    /// Report the health of this server
    ///
    /// Always 200, since it is a report for people.
    GET_HEALTH "getHealth" [];
    /// Probe whether the process answers
    GET_LIVENESS "getLiveness" [];
    /// Probe whether events are taken
    ///
    /// With `?strict` also whether they get through.
    GET_READINESS "getReadiness" [];
    /// Read metrics in the text format of Prometheus
    ///
    /// `404` where `METRICS=off`.
    GET_METRICS "getMetrics" [NOT_FOUND];
    /// Read the API as a page
    ///
    /// Interactive, from files in the server: it works without internet.
    GET_DOCS "getDocs" [];
    /// Read a file of that page
    GET_DOCS_FILE "getDocsFile" [];
    /// Read this document
    GET_OPENAPI "getOpenapi" [];
}
