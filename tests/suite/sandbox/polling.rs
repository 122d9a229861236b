//! A guest that is asked about much at once: through a real component, and by one that answers nonsense.

use kato_orchestrator::{
    Error, Kind,
    model::Token,
    ports::backend::{Asking, Effect, Standing, Verb, Which},
};

use super::{Sandbox, assert_open, quick, token, wish};

fn about(number: usize, resume: u8) -> Asking {
    let token = Token::parse(&format!("token-{number}")).unwrap();
    Asking { verb: Verb::Create, which: Which { token, handle: None }, node: None, resume: vec![resume] }
}

async fn polled(poll: &str, askings: Vec<Asking>) -> Result<Vec<Standing>, Error> {
    let sandbox = Sandbox::new();
    let behave = [("behave", "slow"), ("poll", poll)];
    let backend = sandbox.load("hostile", &behave, "", quick()).await.unwrap();
    let answer = backend.polling().unwrap().poll(askings).await;
    sandbox.neighbour_is_well().await;
    answer
}

#[tokio::test]
async fn work_is_polled_until_the_effect_is_to_be_asked() {
    let sandbox = Sandbox::new();
    let backend = sandbox.hostile("slow").await;
    assert!(backend.describe().abilities.polling);
    let Effect::Pending(pending) = backend.create(wish(token())).await.unwrap() else {
        panic!("it was to take a while");
    };
    let (mut resume, mut notes) = (pending.resume, vec![pending.note]);
    loop {
        let which = Which { token: token(), handle: None };
        let asking = Asking { verb: Verb::Create, which, node: None, resume: resume.clone() };
        match backend.polling().unwrap().poll(vec![asking]).await.unwrap().as_slice() {
            [Standing::Ready] => break,
            [Standing::Still(pending)] => {
                resume = pending.resume.clone();
                notes.push(pending.note.clone());
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(notes, ["3 to go", "2 to go", "1 to go", "0 to go"]);
    let mut again = wish(token());
    again.resume = Some(resume);
    assert!(matches!(backend.create(again).await.unwrap(), Effect::Done(_)));
}

#[tokio::test]
async fn many_are_answered_in_the_order_of_the_question() {
    let askings: Vec<_> = (0..250).map(|number| about(number, u8::from(number % 2 == 0))).collect();
    let standings = polled("", askings).await.unwrap();
    assert_eq!(standings.len(), 250);
    for (number, standing) in standings.iter().enumerate() {
        assert_eq!(matches!(standing, Standing::Still(_)), number % 2 == 0, "{number}");
    }
}

#[tokio::test]
async fn polls_that_answer_nonsense_are_refused() {
    for (poll, word) in [
        ("short", "asked for 2 things and answered 1"),
        ("long", "asked for 2 things and answered 3"),
        ("panic", "no polls today"),
    ] {
        let error = polled(poll, vec![about(1, 1), about(2, 1)]).await.unwrap_err();
        assert_open(&error, &[word]);
        assert_eq!(error.kind, Kind::Internal);
    }
    let error = polled("fat", vec![about(1, 1)]).await.unwrap_err();
    assert_open(&error, &["`resume` is 4097 bytes long"]);
    let refused = polled("refuse", vec![about(1, 1)]).await.unwrap_err();
    assert_eq!((refused.kind, refused.message.as_str()), (Kind::InvalidArgument, "polls are not for me"));
}
