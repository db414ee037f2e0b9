/* A DDS program on Cyclone DDS that knows nothing of ROS or Python: it answers what it hears.
 *
 * /to_peer/text comes back on /from_peer/text with "cyclonedds: " in front, /to_peer/image on
 * /from_peer/image with its bytes in reverse order. Prints "connected" once both ends of either
 * have found theirs. Answers are kept for readers that come later (transient local, the last 10).
 * Ends when its standard input is closed.
 *
 * usage: cyclone_peer DOMAIN
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dds/dds.h"
#include "ros_messages.h"

static dds_entity_t checked(dds_entity_t entity, const char *what)
{
  if (entity < 0) {
    fprintf(stderr, "%s: %s\n", what, dds_strretcode(-entity));
    exit(1);
  }
  return entity;
}

static char *joined(const char *front, const char *rest)
{
  char *text = malloc(strlen(front) + strlen(rest) + 1);
  strcpy(text, front);
  return strcat(text, rest);
}

static void answer_text(dds_entity_t reader, dds_entity_t writer)
{
  std_msgs_msg_dds__String_ *heard;
  void *samples[1] = {NULL};
  dds_sample_info_t info;

  while (dds_take(reader, samples, &info, 1, 1) > 0) {
    if (info.valid_data) {
      heard = samples[0];
      std_msgs_msg_dds__String_ said = {.data_ = joined("cyclonedds: ", heard->data_)};
      checked(dds_write(writer, &said), "write of a text");
      free(said.data_);
    }
    dds_return_loan(reader, samples, 1);
  }
}

static void answer_image(dds_entity_t reader, dds_entity_t writer)
{
  sensor_msgs_msg_dds__CompressedImage_ *heard;
  void *samples[1] = {NULL};
  dds_sample_info_t info;

  while (dds_take(reader, samples, &info, 1, 1) > 0) {
    if (info.valid_data) {
      heard = samples[0];
      sensor_msgs_msg_dds__CompressedImage_ said = *heard; /* header and format as they came */
      uint32_t length = heard->data_._length;
      said.data_._buffer = malloc(length + 1);
      for (uint32_t i = 0; i < length; i++) {
        said.data_._buffer[i] = heard->data_._buffer[length - 1 - i];
      }
      checked(dds_write(writer, &said), "write of an image");
      free(said.data_._buffer);
    }
    dds_return_loan(reader, samples, 1);
  }
}

static int connected(dds_entity_t reader, dds_entity_t writer)
{
  dds_subscription_matched_status_t heard;
  dds_publication_matched_status_t said;

  return dds_get_subscription_matched_status(reader, &heard) == 0 && heard.current_count > 0 &&
         dds_get_publication_matched_status(writer, &said) == 0 && said.current_count > 0;
}

static int told_to_end(void)
{
  struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
  char byte;

  return poll(&input, 1, 2) > 0 && read(STDIN_FILENO, &byte, 1) <= 0;
}

int main(int count, char **words)
{
  if (count != 2) {
    fprintf(stderr, "usage: cyclone_peer DOMAIN\n");
    return 2;
  }
  dds_entity_t domain = checked(
    dds_create_participant((dds_domainid_t)atoi(words[1]), NULL, NULL), "participant");
  dds_qos_t *qos = dds_create_qos();
  dds_qset_reliability(qos, DDS_RELIABILITY_RELIABLE, DDS_SECS(1));
  dds_qset_history(qos, DDS_HISTORY_KEEP_LAST, 10);
  dds_qos_t *kept = dds_create_qos();
  dds_copy_qos(kept, qos);
  dds_qset_durability(kept, DDS_DURABILITY_TRANSIENT_LOCAL);
  dds_qset_durability_service(
    kept, 0, DDS_HISTORY_KEEP_LAST, 10, DDS_LENGTH_UNLIMITED, DDS_LENGTH_UNLIMITED,
    DDS_LENGTH_UNLIMITED);

  const dds_topic_descriptor_t *text = &std_msgs_msg_dds__String__desc;
  const dds_topic_descriptor_t *image = &sensor_msgs_msg_dds__CompressedImage__desc;
  dds_entity_t text_in = checked(dds_create_reader(domain,
    checked(dds_create_topic(domain, text, "rt/to_peer/text", NULL, NULL), "topic"),
    qos, NULL), "reader");
  dds_entity_t text_out = checked(dds_create_writer(domain,
    checked(dds_create_topic(domain, text, "rt/from_peer/text", NULL, NULL), "topic"),
    kept, NULL), "writer");
  dds_entity_t image_in = checked(dds_create_reader(domain,
    checked(dds_create_topic(domain, image, "rt/to_peer/image", NULL, NULL), "topic"),
    qos, NULL), "reader");
  dds_entity_t image_out = checked(dds_create_writer(domain,
    checked(dds_create_topic(domain, image, "rt/from_peer/image", NULL, NULL), "topic"),
    kept, NULL), "writer");
  dds_delete_qos(qos);
  dds_delete_qos(kept);

  for (int told = 0; !told_to_end();) {
    if (!told && (connected(text_in, text_out) || connected(image_in, image_out))) {
      told = puts("connected") >= 0 && fflush(stdout) == 0;
    }
    answer_text(text_in, text_out);
    answer_image(image_in, image_out);
  }
  dds_delete(domain);
  return 0;
}
