//! The way to the region in memory, for one component: it can be cut off before or after any request.

use std::{cell::RefCell, rc::Rc};

use kato_plugin_sdk::{
    http::{Request, Response, Transport},
    testing::{Answered, Arrived, Cut},
    types::Error,
};

use super::fake::{Ec2, Form};

/// A way to the region that can be cut.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) ec2: Rc<RefCell<Ec2>>,
    cut: Rc<RefCell<(u64, Option<Cut>)>>,
}

impl Wire {
    pub(super) fn to(ec2: Rc<RefCell<Ec2>>) -> Self {
        Self { ec2, cut: Rc::default() }
    }

    /// Cuts the component off at a request from now.
    pub(super) fn cut(&self, cut: Option<Cut>) {
        *self.cut.borrow_mut() = (0, cut);
    }

    /// How many requests there were since then, those that were cut off too.
    pub(super) fn sent(&self) -> u64 {
        self.cut.borrow().0
    }
}

impl Wire {
    fn query(&self, request: &Request) -> Response {
        assert_eq!(request.url, "http://ec2.test/");
        assert!(request.headers.iter().all(|(name, _)| name == "content-type"), "{:?}", request.headers);
        let form = parse(&request.body);
        assert_eq!(form["Version"], "2016-11-15");
        let mut ec2 = self.ec2.borrow_mut();
        ec2.asked.push(form["Action"].clone());
        let (status, body) = match ec2.answer(&form) {
            Ok(body) => (200, format!("<{0}Response>{body}</{0}Response>", form["Action"])),
            Err((status, code)) => (
                status,
                format!(
                    "<Response><Errors><Error><Code>{code}</Code><Message>no</Message></Error></Errors></Response>"
                ),
            ),
        };
        Response { status, headers: Vec::new(), body: body.into_bytes() }
    }
}

impl Transport for Wire {
    fn send(&self, request: &Request) -> Result<Response, Error> {
        let (sent, cut) = {
            let mut state = self.cut.borrow_mut();
            state.0 += 1;
            *state
        };
        let away = || Err(Error::unavailable("the component was cut off"));
        match cut {
            Some(Cut::Before(at) | Cut::Within(at)) if sent >= at => return away(),
            Some(Cut::After(at)) if sent > at => return away(),
            _ => {}
        }
        let answer = if request.url.starts_with("http://ebs.test/") {
            assert!(!request.headers.iter().any(|(name, _)| name == "authorization"));
            let arrived = Arrived {
                method: request.method.clone(),
                url: request.url.clone(),
                headers: request.headers.clone(),
                body: request.body.clone(),
            };
            let answered = self.ec2.borrow_mut().answer_direct(&arrived);
            answered.map(|Answered { status, headers, body }| Response { status, headers, body })
        } else {
            Some(self.query(request))
        };
        match answer {
            Some(answer) if !matches!(cut, Some(Cut::After(at)) if sent == at) => Ok(answer),
            _ => away(),
        }
    }

    fn wait(&self, ms: u64) {
        self.ec2.borrow_mut().now += ms;
    }
}

fn parse(body: &[u8]) -> Form {
    let decoded = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'%' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                byte => byte,
            });
        }
        String::from_utf8(bytes).unwrap()
    };
    let fields = std::str::from_utf8(body).unwrap().split('&').map(|field| field.split_once('=').unwrap());
    let count = fields.clone().count();
    let form: Form = fields.map(|(name, value)| (decoded(name), decoded(value))).collect();
    assert_eq!(form.len(), count, "a field is there twice");
    form
}
