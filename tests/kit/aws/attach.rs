//! EC2's actions on attachments: which volume may come to which instance, under which name, and how it leaves again.

use std::time::Duration;

use super::{
    error::Refusal,
    fault::Fault,
    query::Query,
    world::{Attachment, NodeState, Phase, VolumeState, World},
    xml::Xml,
};

/// How many instances may share a volume.
const SHARERS: usize = 16;

impl World {
    pub(super) fn attach_volume(
        &mut self,
        query: &Query,
        fault: Option<&Fault>,
        xml: &mut Xml,
    ) -> Result<(), Refusal> {
        let (id, instance, device) =
            (query.need("VolumeId")?, query.need("InstanceId")?, query.need("Device")?.to_owned());
        self.check_instance(id, instance)?;
        self.check_free(id)?;
        if !is_device_name(&device) {
            let why = format!("{device} is not a valid EBS device name.");
            return Err(Refusal::value("device", &device, &why));
        }
        if device == "/dev/xvda" || self.attached_to(instance).any(|(_, other)| other.device == device) {
            let why = format!(
                "Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
            );
            return Err(Refusal::new("InvalidParameterValue", why));
        }
        let room = self.instances.get(instance).map_or(0, |node| node.kind.room());
        if self.attached_to(instance).count() >= room {
            let why = format!(
                "The maximum number of attachments of instance {instance}, {room}, has been reached."
            );
            return Err(Refusal::new("AttachmentLimitExceeded", why));
        }
        let (now, wait) = (self.now(), self.wait());
        let early = wait.mul_f64(0.5 + 0.6 * self.chance.part());
        let mut attachment = Attachment::new(instance, &device, now, now + early, now + wait);
        attachment.stuck = fault == Some(&Fault::Stuck);
        self.write_attachment(id, &attachment, xml);
        self.volume_mut(id)?.attachments.push(attachment);
        Ok(())
    }

    /// Whether this instance can take this volume.
    fn check_instance(&self, id: &str, instance: &str) -> Result<(), Refusal> {
        let volume = self.volume(id)?;
        let node = self.instances.get(instance).ok_or_else(|| Refusal::no_instance(instance))?;
        if node.state == NodeState::Terminated {
            return Err(Refusal::new("IncorrectState", format!("Instance '{instance}' is not 'running'.")));
        }
        if node.zone != volume.zone {
            let why =
                format!("The volume '{id}' is not in the same availability zone as instance '{instance}'");
            return Err(Refusal::new("InvalidVolume.ZoneMismatch", why));
        }
        Ok(())
    }

    /// Whether this volume can be attached once more.
    fn check_free(&self, id: &str) -> Result<(), Refusal> {
        let volume = self.volume(id)?;
        if volume.state != VolumeState::Ready {
            return Err(Refusal::new("IncorrectState", format!("{id} is not 'available'.")));
        }
        let sharers = volume.attachments.len();
        if sharers > 0 && !volume.multi_attach {
            return Err(Refusal::new("VolumeInUse", format!("{id} is already attached to an instance")));
        }
        if sharers >= SHARERS {
            let why = format!("{id} is attached to {SHARERS} instances already, which is the most");
            return Err(Refusal::new("AttachmentLimitExceeded", why));
        }
        Ok(())
    }

    pub(super) fn detach_volume(
        &mut self,
        query: &Query,
        fault: Option<&Fault>,
        xml: &mut Xml,
    ) -> Result<(), Refusal> {
        let id = query.need("VolumeId")?;
        let (force, wait) = (query.flag("Force"), self.wait());
        let until = self.now() + wait.mul_f64(if force { 0.5 } else { 1.0 });
        let volume = self.volume_mut(id)?;
        if volume.attachments.is_empty() {
            let why = format!("Volume '{id}' is in the '{}' state.", volume.status());
            return Err(Refusal::new("IncorrectState", why));
        }
        let named = query.text("InstanceId").filter(|instance| !instance.is_empty());
        if named.is_none() && volume.attachments.len() > 1 {
            let why = format!("Volume '{id}' is attached to several instances: name one");
            return Err(Refusal::new("InvalidParameterCombination", why));
        }
        let place =
            volume.attachments.iter().position(|it| named.is_none_or(|instance| it.instance == instance));
        let Some(attachment) = place.and_then(|place| volume.attachments.get_mut(place)) else {
            let instance = named.unwrap_or_default();
            let why = format!("Volume '{id}' is not attached to instance '{instance}'.");
            return Err(Refusal::new("InvalidAttachment.NotFound", why));
        };
        if let Some(device) = query.text("Device")
            && attachment.device != device
        {
            let why = format!("Volume '{id}' is not attached as '{device}'.");
            return Err(Refusal::new("InvalidAttachment.NotFound", why));
        }
        if matches!(attachment.phase, Phase::Detaching { .. }) && !force {
            let why = format!("Volume '{id}' is in the '{}' state.", attachment.status());
            return Err(Refusal::new("IncorrectState", why));
        }
        attachment.phase = Phase::Detaching { until, force, busy: false };
        attachment.stuck = fault == Some(&Fault::Stuck);
        let instance = attachment.instance.clone();
        let volume = self.volume(id)?;
        if let Some(attachment) = volume.attachments.iter().find(|it| it.instance == instance) {
            self.write_attachment(id, attachment, xml);
        }
        Ok(())
    }

    pub(super) fn write_attachment(&self, id: &str, attachment: &Attachment, xml: &mut Xml) {
        xml.leaf("volumeId", id);
        xml.leaf("instanceId", &attachment.instance);
        xml.leaf("device", &attachment.device);
        xml.leaf("status", attachment.status());
        xml.leaf("attachTime", self.clock.written(attachment.since));
        xml.leaf("deleteOnTermination", false);
    }

    /// What was stuck on command goes on.
    pub(super) fn unstick(&mut self) {
        let now = self.now();
        for attachment in self.volumes.values_mut().flat_map(|volume| &mut volume.attachments) {
            if attachment.stuck && matches!(attachment.phase, Phase::Attaching { .. }) {
                attachment.phase = Phase::Attaching { shown: now, until: now + Duration::from_millis(1) };
            }
            attachment.stuck = false;
        }
    }
}

/// The names that AWS lets a device have: `/dev/sdf`, `/dev/sdf1`, `/dev/xvdba`.
fn is_device_name(name: &str) -> bool {
    let Some(rest) = ["/dev/sd", "/dev/xvd"].iter().find_map(|prefix| name.strip_prefix(prefix)) else {
        return false;
    };
    let letters = rest.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let number = rest.strip_prefix(letters).unwrap_or_default();
    (1..=2).contains(&letters.len())
        && letters.bytes().all(|letter| letter.is_ascii_lowercase())
        && (number.is_empty() || number.parse::<u8>().is_ok_and(|number| (1..=15).contains(&number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_called_as_aws_lets_them_be() {
        assert!(
            ["/dev/sdf", "/dev/sdf15", "/dev/xvdf", "/dev/xvdba"].iter().all(|name| is_device_name(name))
        );
        assert!(
            !["/dev/sd", "sdf", "/dev/nvme1n1", "/dev/xvdF", "/dev/sdf16"]
                .iter()
                .any(|name| is_device_name(name))
        );
    }
}
