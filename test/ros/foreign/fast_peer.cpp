// A DDS program on Fast DDS that knows nothing of ROS or Python: it answers what it hears.
//
// /to_peer/text comes back on /from_peer/text with "fastdds: " in front, /to_peer/image on
// /from_peer/image with its bytes in reverse order. Prints "connected" once both ends of either
// have found theirs. Answers are kept for readers that come later (transient local, the last 10).
// Ends when its standard input is closed.
// Debian has no code generator for Fast DDS, so the two types are described by hand below.
//
// usage: fast_peer DOMAIN
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <fastcdr/Cdr.h>
#include <fastcdr/FastBuffer.h>
#include <fastdds/dds/domain/DomainParticipant.hpp>
#include <fastdds/dds/domain/DomainParticipantFactory.hpp>
#include <fastdds/dds/publisher/DataWriter.hpp>
#include <fastdds/dds/publisher/Publisher.hpp>
#include <fastdds/dds/subscriber/DataReader.hpp>
#include <fastdds/dds/subscriber/SampleInfo.hpp>
#include <fastdds/dds/subscriber/Subscriber.hpp>
#include <fastdds/dds/topic/TopicDataType.hpp>
#include <fastdds/dds/topic/TypeSupport.hpp>
#include <fastdds/rtps/transport/UDPv4TransportDescriptor.h>
#include <fastrtps/utils/IPLocator.h>

using namespace eprosima::fastdds::dds;
using eprosima::fastcdr::Cdr;
using eprosima::fastrtps::rtps::IPLocator;
using eprosima::fastrtps::rtps::InstanceHandle_t;
using eprosima::fastrtps::rtps::Locator_t;
using eprosima::fastrtps::rtps::SerializedPayload_t;

struct Text
{
  static constexpr const char * NAME = "std_msgs::msg::dds_::String_";
  static constexpr uint32_t MOST_BYTES = 1000;
  std::string data;

  void write(Cdr & cdr) const {cdr << data;}
  void read(Cdr & cdr) {cdr >> data;}
  uint32_t bytes() const {return 16 + data.size();}
};

struct Image
{
  static constexpr const char * NAME = "sensor_msgs::msg::dds_::CompressedImage_";
  static constexpr uint32_t MOST_BYTES = 1000000;
  int32_t sec = 0;
  uint32_t nanosec = 0;
  std::string frame_id;
  std::string format;
  std::vector<uint8_t> data;

  void write(Cdr & cdr) const {cdr << sec << nanosec << frame_id << format << data;}
  void read(Cdr & cdr) {cdr >> sec >> nanosec >> frame_id >> format >> data;}
  uint32_t bytes() const {return 64 + frame_id.size() + format.size() + data.size();}
};

template<typename T>
class Type : public TopicDataType
{
public:
  Type()
  {
    setName(T::NAME);
    m_typeSize = T::MOST_BYTES;
    m_isGetKeyDefined = false;
  }

  bool serialize(void * sample, SerializedPayload_t * payload) override
  {
    eprosima::fastcdr::FastBuffer buffer(
      reinterpret_cast<char *>(payload->data), payload->max_size);
    Cdr cdr(buffer, Cdr::DEFAULT_ENDIAN, Cdr::DDS_CDR);
    payload->encapsulation = CDR_LE;
    cdr.serialize_encapsulation();
    static_cast<T *>(sample)->write(cdr);
    payload->length = static_cast<uint32_t>(cdr.getSerializedDataLength());
    return true;
  }

  bool deserialize(SerializedPayload_t * payload, void * sample) override
  {
    eprosima::fastcdr::FastBuffer buffer(
      reinterpret_cast<char *>(payload->data), payload->length);
    Cdr cdr(buffer, Cdr::DEFAULT_ENDIAN, Cdr::DDS_CDR);
    cdr.read_encapsulation();
    static_cast<T *>(sample)->read(cdr);
    return true;
  }

  std::function<uint32_t()> getSerializedSizeProvider(void * sample) override
  {
    return [sample] {return static_cast<T *>(sample)->bytes();};
  }

  void * createData() override {return new T;}
  void deleteData(void * sample) override {delete static_cast<T *>(sample);}
  bool getKey(void *, InstanceHandle_t *, bool) override {return false;}
};

template<typename T>
T * there(T * made, const std::string & what)
{
  if (made == nullptr) {
    throw std::runtime_error(what + " could not be made");
  }
  return made;
}

DomainParticipant * join_loopback(int domain)
{
  auto udp = std::make_shared<eprosima::fastdds::rtps::UDPv4TransportDescriptor>();
  udp->interfaceWhiteList.push_back("127.0.0.1");
  udp->maxInitialPeersRange = 32;
  DomainParticipantQos qos;
  qos.transport().use_builtin_transports = false;
  qos.transport().user_transports.push_back(udp);
  Locator_t loopback;
  loopback.kind = LOCATOR_KIND_UDPv4;
  IPLocator::setIPv4(loopback, 127, 0, 0, 1);
  qos.wire_protocol().builtin.initialPeersList.push_back(loopback);
  auto * factory = DomainParticipantFactory::get_instance();
  return there(factory->create_participant(domain, qos), "participant");
}

template<typename T>
class Ends
{
public:
  Ends(DomainParticipant * domain, const std::string & name)
  {
    TypeSupport(new Type<T>()).register_type(domain);
    Topic * in = there(
      domain->create_topic("rt/to_peer/" + name, T::NAME, TOPIC_QOS_DEFAULT), "topic");
    Topic * out = there(
      domain->create_topic("rt/from_peer/" + name, T::NAME, TOPIC_QOS_DEFAULT), "topic");
    DataReaderQos reading;
    reading.reliability().kind = RELIABLE_RELIABILITY_QOS;
    reading.history().depth = 10;
    DataWriterQos writing;
    writing.reliability().kind = RELIABLE_RELIABILITY_QOS;
    writing.history().depth = 10;
    writing.durability().kind = TRANSIENT_LOCAL_DURABILITY_QOS;
    writing.publish_mode().kind = ASYNCHRONOUS_PUBLISH_MODE;  // synchronous ones cannot fragment
    reader_ = there(
      domain->create_subscriber(SUBSCRIBER_QOS_DEFAULT)->create_datareader(in, reading), "reader");
    writer_ = there(
      domain->create_publisher(PUBLISHER_QOS_DEFAULT)->create_datawriter(out, writing), "writer");
  }

  bool connected() const
  {
    SubscriptionMatchedStatus heard;
    PublicationMatchedStatus said;
    reader_->get_subscription_matched_status(heard);
    writer_->get_publication_matched_status(said);
    return heard.current_count > 0 && said.current_count > 0;
  }

  template<typename Change>
  void answer(Change change)
  {
    T sample;
    SampleInfo info;
    while (reader_->take_next_sample(&sample, &info) == ReturnCode_t::RETCODE_OK) {
      if (info.valid_data) {
        change(sample);
        writer_->write(&sample);
      }
    }
  }

private:
  DataReader * reader_;
  DataWriter * writer_;
};

bool told_to_end()
{
  pollfd input{STDIN_FILENO, POLLIN, 0};
  char byte;
  return poll(&input, 1, 2) > 0 && read(STDIN_FILENO, &byte, 1) <= 0;
}

int main(int count, char ** words)
{
  if (count != 2) {
    std::cerr << "usage: fast_peer DOMAIN\n";
    return 2;
  }
  try {
    DomainParticipant * domain = join_loopback(std::atoi(words[1]));
    Ends<Text> texts(domain, "text");
    Ends<Image> images(domain, "image");
    for (bool told = false; !told_to_end();) {
      if (!told && (texts.connected() || images.connected())) {
        std::cout << "connected" << std::endl;
        told = true;
      }
      texts.answer([](Text & text) {text.data = "fastdds: " + text.data;});
      images.answer([](Image & image) {std::reverse(image.data.begin(), image.data.end());});
    }
    domain->delete_contained_entities();
    DomainParticipantFactory::get_instance()->delete_participant(domain);
  } catch (const std::exception & err) {
    std::cerr << err.what() << "\n";
    return 1;
  }
  return 0;
}
